"""The names of networks in a parameter file, checked when it is read: ours by their form, timm's in timm's own source.

timm names a model where a function of its source is registered. Importing it would import torch, which takes seconds that every
command would pay; reading four megabytes of text takes a tenth of one, and only where a name is none of ours.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from distill.names import EXAMPLES, read_name

_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"^\s*['\"]([\w.]+)['\"]\s*:", re.MULTILINE)


@lru_cache
def timm_names() -> frozenset[str]:
    """The names of timm's architectures, old ones too; none where timm is not installed."""
    timm = importlib.util.find_spec("timm")
    names: set[str] = set()
    for folder in (timm.submodule_search_locations or []) if timm is not None else []:
        for file in (Path(folder) / "models").glob("*.py"):
            text = file.read_text(encoding="utf-8", errors="replace")
            names.update(_REGISTERED.findall(text), *(_OLD_NAME.findall(block) for block in _RENAMED.findall(text)))
    return frozenset(names)


def require_network(name: str) -> str:
    """`name` if a network is called so, else `ValueError` with the nearest names.

    A name may carry timm's tag (`resnet18.a1_in1k`). Where timm is not installed any name but ours may be one of its.
    """
    if read_name(name) is not None:
        return name
    names = timm_names()
    if names and name.partition(".")[0] not in names:
        close = difflib.get_close_matches(name, [*EXAMPLES, *sorted(names)], n=3)
        raise ValueError(f"no network is called so; near it: {', '.join(close or (*EXAMPLES, 'resnet18'))}")
    return name


#: A key that names a network.
NetworkName = Annotated[
    str, AfterValidator(require_network), WithJsonSchema({"anyOf": [{"enum": list(EXAMPLES)}, {"type": "string"}]})
]
