"""LoRA on a generator: which layers, several adapters on one frozen base, and files that load elsewhere.

Rank, targets and initialisation are DataDream's (fact sheet, 1.2): the four projections of every attention, A ~ N(0, 1/r), B = 0.
The files are diffusers' `pytorch_lora_weights.safetensors`, with rank and alpha in the metadata: without it a loaded adapter whose
alpha is not its rank would run at the wrong scale.
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
    """peft's configuration of one adapter."""
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))


class LoraSet:
    """Adapters in training on the modules of one generator; the base is frozen and shared, one adapter is active at a time.

    `text`: also on the CLIP text encoders (no other kind is adapted). What a caller adds by name it may save and remove by name.
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
        """A new adapter with float32 weights that follow from `seed`; the model's output is the base's until it is trained."""
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
        """Run and train this adapter and no other."""
        self._known(name)
        for layer in self._layers():
            if layer.disable_adapters:
                layer.enable_adapters(True)
            layer.set_adapter([name] if name in layer.lora_A else [])

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Its weights, the denoiser's first, in the order of the modules."""
        return [weight for named in self._named(name).values() for weight in named.values()]

    def state(self, name: str) -> dict[str, dict[str, torch.Tensor]]:
        """Its weights on the CPU, by module and by peft's names."""
        return {
            part: {path: weight.detach().cpu().clone() for path, weight in named.items()}
            for part, named in self._named(name).items()
        }

    def load_state(self, name: str, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Put back what `state` gave."""
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
        """Write it to `folder` in diffusers' format; same weights, same bytes.

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
        path.write_bytes(_settled(path.read_bytes()))
        return path

    def remove(self, name: str) -> None:
        """Free its memory; the base is as it was."""
        self._known(name)
        self.names.remove(name)
        self.backend.delete_adapters(name)
        self.backend.forget_prompts()

    def _named(self, name: str) -> dict[str, dict[str, nn.Parameter]]:
        """Its weights by module and by path, without its own name in it.

        peft's `get_peft_model_state_dict` leaves out any layer whose path holds another adapter's name: with a class called 0 in
        training beside it, that is nearly all of them.
        """
        self._known(name)
        found: dict[str, dict[str, nn.Parameter]] = {part: {} for part in self.modules}
        for part, module in self.modules.items():
            for path, weight in module.named_parameters():
                for kind in ("lora_A", "lora_B"):
                    front, mark, back = path.partition(f".{kind}.{name}.")
                    if mark:
                        found[part][f"{front}.{kind}.{back}"] = weight
        return found

    def _layers(self) -> list[Any]:
        return [layer for m in self.modules.values() for layer in m.modules() if isinstance(layer, BaseTunerLayer)]

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise SynthError(f"no adapter called {name!r} is in training, only {', '.join(self.names) or 'none'}")


def _frozen_text(backend: Any, name: str) -> bool:
    """FLUX's second encoder is T5, and its pipeline saves adapters of the first only."""
    return name != "text_encoder" and backend.capabilities.family == "flux"


def _text_key(key: str, spelling: TextKeys) -> str:
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}" if spelling == "text_model" else bare


def _metadata(module: Any, name: str) -> dict[str, Any]:
    """What peft needs to make the adapter again. Sorted, because peft keeps sets, whose order changes from process to process."""
    config = module.peft_config[name]
    targets = sorted(config.target_modules)
    return {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": 0.0, "target_modules": targets}


def _settled(file: bytes) -> bytes:
    """A safetensors file with its metadata in order: the writer keeps them in a hash map, whose order is never the same."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]
