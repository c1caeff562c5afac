"""The device that a worker computes on, and whether the packages for it are there."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.runtime.job import Job

if TYPE_CHECKING:
    import torch


def torch_device(job: Job[Any]) -> torch.device:
    """The device of this worker, with its thread count set."""
    import torch

    torch.set_num_threads(job.run.threads)
    if job.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device is cuda but torch sees no CUDA device; use run.device: auto or cpu")
    use_cuda = job.run.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def require_synth(what: str) -> None:
    """Refuse to begin when a package of the `synth` extra is not installed."""
    for package in ("torch", "diffusers", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs {package}; pip install 'limbeck[synth]'")
