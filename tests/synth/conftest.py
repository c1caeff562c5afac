"""Nothing here may ask a network, and the tiny generators are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import huggingface_hub.constants
import pytest

huggingface_hub.constants.HF_HUB_OFFLINE = True  # the variable is read on import, which may have been long ago


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a saved tiny pipeline, by its name in `making.MAKERS`."""
    from tests.synth import making

    folders: dict[str, str] = {}

    def find(name: str) -> str:
        if name not in folders:
            folders[name] = making.saved(making.MAKERS[name](), tmp_path_factory.mktemp(name))
        return folders[name]

    return find


@pytest.fixture(scope="session")
def generator(folder_of: Callable[[str], str]) -> Callable[[str], Any]:
    """A loaded tiny generator, by its name; shared, so a test that changes one loads its own."""
    from synth.backends import load_backend

    loaded: dict[str, Any] = {}

    def find(name: str) -> Any:
        if name not in loaded:
            loaded[name] = load_backend(folder_of(name))
        return loaded[name]

    return find
