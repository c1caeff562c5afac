"""LoRA adapters on a loaded pipeline: many in memory, some of them active, none reloaded to be swapped."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import nn

from synth.backends.protocol import Capabilities
from synth.errors import SynthError
from synth.quiet import quiet_generators, quiet_loading


class Adapters:
    """Mixin that loads, selects and frees the LoRA adapters of a generator; `pipeline` and `capabilities` are the generator's."""

    pipeline: Any
    capabilities: Capabilities
    _loaded = 0

    def load_adapter(self, folder: str, name: str, weights_file: str | None = None) -> None:
        """Load LoRA weights in diffusers' format from `folder` as adapter `name`, beside those already there.

        It is active, alone, until `set_adapters` says otherwise. Puts every part of the pipeline to eval mode. SynthError where the
        model takes no adapters or the folder holds none for it.
        """
        if not self.capabilities.adapters:
            raise SynthError(f"a {self.capabilities.family} model takes no LoRA adapters here")
        extra = {} if weights_file is None else {"weight_name": weights_file}
        try:
            with quiet_loading(), quiet_generators(torch.device("cpu")):
                self.pipeline.load_lora_weights(folder, adapter_name=name, **extra)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise SynthError(
                f"no LoRA adapter for this {self.capabilities.family} model in {folder}: {lines[0].rstrip('.')}"
            ) from error
        for component in self.pipeline.components.values():
            if isinstance(component, nn.Module):
                component.eval()  # layers that were just put in are in train mode, and drop out
        self._loaded += 1

    def delete_adapters(self, names: str | Sequence[str]) -> None:
        """Remove these adapters from the model and free their memory; SynthError for a name that is not loaded."""
        self.pipeline.delete_adapters(self._require_loaded([names] if isinstance(names, str) else list(names)))

    def set_adapters(self, names: str | Sequence[str], weights: float | Sequence[float] = 1.0) -> None:
        """Run with these adapters and weights from now on; none, or weight 0, is exactly the base model, two at 0.5 are LoFT's."""
        wanted = self._require_loaded([names] if isinstance(names, str) else list(names))
        scales = [float(weights)] * len(wanted) if isinstance(weights, int | float) else [float(w) for w in weights]
        if len(scales) != len(wanted):
            raise SynthError(f"{len(wanted)} adapters were named with {len(scales)} weights: give one weight for each")
        if not wanted:
            if self._listed():
                self.pipeline.disable_lora()
            return
        self.pipeline.enable_lora()
        self.pipeline.set_adapters(wanted, adapter_weights=scales)

    def text_adapters(self) -> Hashable:
        """Return a key of the adapters that the text encoders now run and their weights: prompt embeddings belong to it."""
        state: list[Hashable] = [self._loaded]
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            module = getattr(self.pipeline, name, None)
            if module is not None and getattr(module, "peft_config", None):
                state.append((name, _active(module)))
        return tuple(state)

    def _listed(self) -> list[str]:
        if not self.capabilities.adapters:
            return []
        return sorted({name for part in self.pipeline.get_list_adapters().values() for name in part})

    def _require_loaded(self, names: list[str]) -> list[str]:
        loaded = self._listed()
        missing = [name for name in names if name not in loaded]
        if missing:
            raise SynthError(f"no adapter called {missing[0]!r} is loaded, only {', '.join(loaded) or 'none'}")
        return names


def _active(module: nn.Module) -> Hashable:
    """Return the active adapters of a peft-injected module with their scales, as its first LoRA layer has them."""
    for layer in module.modules():
        active, scaling = getattr(layer, "active_adapters", None), getattr(layer, "scaling", None)
        if active is not None and isinstance(scaling, dict):
            enabled = not getattr(layer, "disable_adapters", False)
            return tuple((name, scaling.get(name)) for name in active) if enabled else ()
    return ()
