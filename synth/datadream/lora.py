"""LoRA on a generator: which layers, several adapters on one frozen base, and files that load elsewhere.

Rank, targets and initialisation are DataDream's (`docs/specs/datadream.md`, adaptation): the four projections of every attention, A
~ N(0, 1/r), B = 0. The files are diffusers' `pytorch_lora_weights.safetensors`, with rank and alpha in the metadata: without it a
loaded adapter whose alpha is not its rank would run at the wrong scale.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from synth.errors import SynthError
from synth.quiet import quiet_generators, quiet_loading

UNET_TARGETS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
TRANSFORMER_TARGETS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")

# CLIPTextModel's layers were called text_model.encoder... up to transformers 4, and encoder... since.
TextKeys = Literal["text_model", "plain"]


def lora_config(rank: int, alpha: int, targets: tuple[str, ...]) -> LoraConfig:
    """Return peft's configuration of one adapter."""
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))


class LoraSet:
    """Holds the adapters in training on one generator; the base is frozen and shared, one adapter is active at a time.

    `text`: also on the CLIP text encoders (no other kind is adapted). SynthError for a model that takes no adapters, or in float16.
    """

    def __init__(self, backend: Any, text: bool = True) -> None:
        can = backend.capabilities
        if not can.adapters:
            raise SynthError(f"a {can.family} model takes no LoRA adapters here")
        if backend.dtype == torch.float16:
            raise SynthError("gradients underflow in float16: load the generator in bfloat16 or float32 to adapt it")
        self.backend = backend
        denoiser = str(backend.denoiser_name)
        self.modules: dict[str, Any] = {denoiser: getattr(backend.pipeline, denoiser)}
        self._targets: dict[str, tuple[str, ...]] = {
            denoiser: UNET_TARGETS if denoiser == "unet" else TRANSFORMER_TARGETS
        }
        for name in TEXT_ENCODERS if text else ():
            module = getattr(backend.pipeline, name, None)
            if isinstance(module, CLIPTextModel | CLIPTextModelWithProjection) and not _frozen_text(backend, name):
                self.modules[name] = module
                self._targets[name] = TEXT_TARGETS
        self.names: list[str] = []

    @property
    def text(self) -> bool:
        """Whether a text encoder is adapted, so that prompts must be encoded anew at every step."""
        return len(self.modules) > 1

    def add(self, name: str, rank: int, alpha: int, seed: int) -> None:
        """Put a new adapter `name` into the model, with float32 weights that follow from `seed`.

        The model's output stays the base's until it is trained. SynthError for a name with dots, or one that is there.
        """
        if not name or "." in name:
            raise SynthError(f"an adapter's name takes no dots and is not empty, got {name!r}")
        if name in self.names:
            raise SynthError(f"an adapter called {name!r} is in training already")
        with quiet_loading(), quiet_generators(self.backend.device), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Already found a `peft_config`", UserWarning
            )  # several adapters are meant
            for part, module in self.modules.items():
                module.add_adapter(lora_config(rank, alpha, self._targets[part]), adapter_name=name)
                module.eval()  # layers that were just put in are in train mode
        self.names.append(name)
        for weight in self.parameters(name):
            weight.data = weight.data.float()
        source = torch.Generator().manual_seed(seed)
        for named in self._named(name).values():
            for path, weight in named.items():
                if ".lora_A." in path:  # drawn on the CPU: the same for any device
                    weight.data.copy_(torch.randn(weight.shape, generator=source) / rank)

    def activate(self, name: str) -> None:
        """Make this adapter the one that runs and trains, and no other."""
        self._require_added(name)
        for layer in self._layers():
            if layer.disable_adapters:
                layer.enable_adapters(True)
            layer.set_adapter([name] if name in layer.lora_A else [])

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Return the weights of `name`, the denoiser's first, in the order of the modules."""
        return [weight for named in self._named(name).values() for weight in named.values()]

    def state(self, name: str) -> dict[str, dict[str, torch.Tensor]]:
        """Copy the weights of `name` to the CPU, by module and by peft's names."""
        return {
            part: {path: weight.detach().cpu().clone() for path, weight in named.items()}
            for part, named in self._named(name).items()
        }

    def load_state(self, name: str, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Load what `state` gave into `name` and drop cached prompts; SynthError for weights of other layers."""
        own = self._named(name)
        if {part: set(named) for part, named in own.items()} != {part: set(saved) for part, saved in state.items()}:
            raise SynthError(
                f"the saved state is of other layers than {', '.join(own)} have here: adapt with the same settings"
            )
        for part, named in own.items():
            for path, weight in named.items():
                weight.data.copy_(state[part][path])
        self.backend.forget_prompts()

    def save(self, name: str, folder: str | Path, text_keys: TextKeys = "text_model") -> Path:
        """Write `name` to `folder` in diffusers' format and return the file's path; same weights, same bytes.

        `text_keys: text_model` spells the text encoder's layers as every version of transformers and diffusers reads them,
        `plain` as transformers 5 names them.
        """
        if text_keys not in get_args(TextKeys):
            raise SynthError(f"text_keys takes {' | '.join(get_args(TextKeys))}, got {text_keys!r}")
        arguments: dict[str, Any] = {}
        for part, state in self.state(name).items():
            # A transformer's layers keep peft's names: the conversion renames only some of them, and a reader drops the rest.
            layers = state if part == "transformer" else convert_state_dict_to_diffusers(state)
            if part.startswith("text_encoder"):
                layers = {_text_key(key, text_keys): tensor for key, tensor in layers.items()}
            arguments[f"{part}_lora_layers"] = layers
            arguments[f"{part}_lora_adapter_metadata"] = _metadata(self.modules[part], name)
        with quiet_loading():
            type(self.backend.pipeline).save_lora_weights(str(folder), **arguments)
        path = Path(folder) / "pytorch_lora_weights.safetensors"
        path.write_bytes(_with_sorted_metadata(path.read_bytes()))
        return path

    def remove(self, name: str) -> None:
        """Take `name` out of the model and free its memory; the base is as it was, cached prompts are dropped."""
        self._require_added(name)
        self.names.remove(name)
        self.backend.delete_adapters(name)
        self.backend.forget_prompts()

    def _named(self, name: str) -> dict[str, dict[str, nn.Parameter]]:
        """Return the weights of `name` by module and by path, its own name left out.

        peft's `get_peft_model_state_dict` leaves out any layer whose path holds another adapter's name: with a class called 0 in
        training beside it, that is nearly all of them.
        """
        self._require_added(name)
        weights: dict[str, dict[str, nn.Parameter]] = {part: {} for part in self.modules}
        for part, module in self.modules.items():
            for path, weight in module.named_parameters():
                for kind in ("lora_A", "lora_B"):
                    front, mark, back = path.partition(f".{kind}.{name}.")
                    if mark:
                        weights[part][f"{front}.{kind}.{back}"] = weight
        return weights

    def _layers(self) -> list[Any]:
        return [layer for m in self.modules.values() for layer in m.modules() if isinstance(layer, BaseTunerLayer)]

    def _require_added(self, name: str) -> None:
        if name not in self.names:
            raise SynthError(f"no adapter called {name!r} is in training, only {', '.join(self.names) or 'none'}")


def _frozen_text(backend: Any, name: str) -> bool:
    """Say whether a text encoder is left alone: FLUX's second is T5, and its pipeline saves adapters of the first only."""
    return name != "text_encoder" and backend.capabilities.family == "flux"


def _text_key(key: str, spelling: TextKeys) -> str:
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}" if spelling == "text_model" else bare


def _metadata(module: Any, name: str) -> dict[str, Any]:
    """Return what peft needs to make the adapter again. Sorted: peft has sets, whose order changes from process to process."""
    config = module.peft_config[name]
    targets = sorted(config.target_modules)
    return {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": 0.0, "target_modules": targets}


def _with_sorted_metadata(file: bytes) -> bytes:
    """Sort the metadata of a safetensors file: its writer has them in a hash map, whose order is never the same."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]
