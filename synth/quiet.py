"""Contexts for third-party code: log lines and progress bars silenced, the global random generators put back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Where the libraries are told how much to say. Neither is imported for it: that takes seconds.
_VOICES = ("diffusers.utils.logging", "transformers.utils.logging")


@contextlib.contextmanager
def quiet_generators(device: torch.device) -> Iterator[None]:
    """Put torch's global generators, of the CPU and of a CUDA `device`, back afterwards to what they were on entry."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence progress bars and notes of diffusers and transformers, where imported; their own settings come back afterwards."""
    libraries: list[Any] = [sys.modules[name] for name in _VOICES if name in sys.modules]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
