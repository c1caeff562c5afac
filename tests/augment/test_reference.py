"""docs/augment.md is made from the code: `python -m tests.augment.test_reference` writes it, this test keeps it true."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from augment import presets
from augment.operations import OPERATIONS
from augment.ranges import Range

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "augment.md"
HEAD = """# Operations and presets of `augment`

Made from the code by `python -m tests.augment.test_reference`. How a policy is written stands in `augment/policy.py`: a
preset's name, a list of operations, or groups of them (`one_of`, `choose`, `augmix`).

Where a setting is a range it takes a number, `[low, high]`, `{signed: size}` for a size with a tossed sign, `{around: size}`
for 1 ± size, or `{start: .., end: .., shape: linear | cosine | step, until: ..}`, which moves with training progress. Every
operation takes `p`, the share of samples it is applied to.
"""
KINDS = {"geometric": "Geometry", "colour": "Colours", "filter": "Neighbourhoods and regions"}


def shown(value: Any) -> str:
    """A default as params.yaml would write it."""
    if isinstance(value, Range):
        return f"{value.low:g}" if value.low == value.high else f"[{value.low:.3g}, {value.high:.3g}]"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{one:g}' for one in value)}]"
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "true", False: "false"}[value]
    return "{}" if value == {} else f"{value:g}" if isinstance(value, (int, float)) else str(value)


def sentence(docstring: str | None) -> str:
    """The docstring as one paragraph."""
    return " ".join((docstring or "").split())


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for family, title in KINDS.items():
        parts.append(f"## {title}\n")
        for name, operation in sorted(OPERATIONS.items()):
            if operation.family != family:
                continue
            settings = []
            for field in fields(operation):
                default = field.default_factory() if field.default_factory is not MISSING else field.default
                if field.name != "p" or default != Range(1.0, 1.0):
                    settings.append(f"`{field.name}`" if default is MISSING else f"`{field.name}: {shown(default)}`")
            parts.append(f"- {' '.join([f'**{name}**', *settings])}: {sentence(operation.__doc__)}")
        parts.append("")
    parts.append("## Presets\n")
    for name in presets.NAMES:
        made = getattr(presets, name)
        options = [f"`{one.name}: {shown(one.default)}`" for one in inspect.signature(made).parameters.values()]
        parts.append(f"- {' '.join([f'**{name}**', *options])}: {sentence(made.__doc__)}")
    return "\n".join(parts) + "\n"


def test_the_reference_page_says_what_the_code_does() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.augment.test_reference`"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
