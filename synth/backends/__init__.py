"""Generators behind one small protocol: adapters over diffusers' pipelines, loaded from a folder or an id."""

from synth.backends.loading import GeneratorOptions, load_backend, wrap
from synth.backends.protocol import Backend, Capabilities, Conditioning, SteppedBackend, WholeBackend

__all__ = [
    "Backend",
    "Capabilities",
    "Conditioning",
    "GeneratorOptions",
    "SteppedBackend",
    "WholeBackend",
    "load_backend",
    "wrap",
]
