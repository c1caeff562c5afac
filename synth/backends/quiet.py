"""Contexts for third-party code: log lines and progress bars silenced, the global random generators put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet_generators(device: torch.device) -> Iterator[None]:
    """Put torch's global generators, of the CPU and of a CUDA `device`, back afterwards to what they were on entry."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence progress bars and notes of diffusers and transformers; their own settings come back afterwards."""
    libraries = (diffusers_logging, transformers_logging)
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
