"""From a folder or a Hub id to a generator: where it is looked for, what it may cost, and one sentence when it is not there."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKL, AutoPipelineForText2Image, DiffusionPipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from safetensors import SafetensorError

from synth.backends.base import LatentBackend
from synth.backends.pixart import PixArt
from synth.backends.protocol import Backend
from synth.backends.transformers import DiT, Flux, StableDiffusion3
from synth.backends.unet import Gligen, StableDiffusion, StableDiffusionXL
from synth.backends.whole import WholePipeline
from synth.errors import SynthError
from synth.quiet import quiet_generators, quiet_loading

DType = Literal["auto", "float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential"]

_FAMILIES: dict[str, Callable[[Any], Backend]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionImg2ImgPipeline": StableDiffusion,
    "StableDiffusionInpaintPipeline": StableDiffusion,
    "StableDiffusionGLIGENPipeline": Gligen,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
    "StableDiffusionXLInpaintPipeline": StableDiffusionXL,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "StableDiffusion3Img2ImgPipeline": StableDiffusion3,
    "StableDiffusion3InpaintPipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "FluxImg2ImgPipeline": Flux,
    "FluxInpaintPipeline": Flux,
    "DiTPipeline": DiT,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
}


@dataclass(frozen=True)
class GeneratorOptions:
    """The settings of a loaded generator: which model, and how it is held.

    `model`: a folder saved by diffusers, or `owner/name` on the Hub, with `revision` and `variant` (fp16). `dtype` auto is
    bfloat16 on a CUDA device that has it, else float32. `device` auto is cuda where there is one; `device_map` (balanced) spreads
    a model over several GPUs and `offload` keeps its parts in main memory between uses. `attention`: slicing, or a backend of
    diffusers' (native, flash, ...). `vae`: a folder or id of an AutoencoderKL to take instead (fp16-safe, or a fine-tuned one).
    """

    model: str
    revision: str | None = None
    variant: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    device_map: str | None = None
    offload: Offload = "none"
    attention: str | None = None
    vae: str | None = None
    vae_slicing: bool = False
    vae_tiling: bool = False


def load_backend(options: GeneratorOptions | str) -> Backend:
    """Load the generator that `options`, or just a folder or id, name; SynthError, one sentence, where that cannot be done.

    Its safety checker is off: it blackens images silently (the sampler counts black ones). Its watermarker is off: a training set
    should not learn one. Only safetensors are read.
    """
    if isinstance(options, str):
        options = GeneratorOptions(options)
    for name, value, words in (("dtype", options.dtype, DType), ("offload", options.offload, Offload)):
        if value not in get_args(words):
            raise SynthError(f"{name} takes {' | '.join(get_args(words))}, got {value!r}")
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    name, index = _look_up(options)
    if name not in _FAMILIES and name not in _text_to_image_classes():
        raise SynthError(
            f"{options.model} holds a {name}, which makes no images from text or classes here; take an AutoPipeline"
        )
    pipeline = _load(options, dtype, name, index)
    _place(pipeline, options, device)
    backend = wrap(pipeline)
    if options.offload != "none" and isinstance(backend, LatentBackend):
        # Parts are brought to the GPU when the whole UNet is called, which encoder-free steps do not do.
        backend.capabilities = replace(backend.capabilities, encoder_free=False)
    return backend


def wrap(pipeline: Any) -> Backend:
    """Wrap a diffusers pipeline that is in memory already as a generator.

    Changes the pipeline: no progress bar, no watermarker, and a half-precision autoencoder that overflows goes to float32.
    """
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None
    vae = getattr(pipeline, "vae", None)
    if vae is not None and vae.dtype == torch.float16 and vae.config.get("force_upcast", False):
        vae.to(torch.float32)  # SDXL's overflows in half precision and gives black images
    return _FAMILIES.get(type(pipeline).__name__, WholePipeline)(pipeline)


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`, auto being cuda where there is one; SynthError for one that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SynthError(f"device takes auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SynthError(f"device {name} was asked for, and this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def resolve_dtype(name: DType, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`, auto being bfloat16 on a CUDA device that has it and float32 elsewhere."""
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def _look_up(options: GeneratorOptions) -> tuple[str, dict[str, Any]]:
    """Read a model's model_index.json, from a folder or the Hub; returns its pipeline class and the index."""
    folder = Path(options.model).expanduser()
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", options.model) or options.model.startswith("."):
        where = folder / "model_index.json"
        if not where.is_file():
            lack = "has no model_index.json" if folder.is_dir() else "is not a folder"
            advice = "give a folder saved by diffusers' save_pretrained or an id such as owner/name"
            raise SynthError(f"no generator at {options.model}: {folder.absolute()} {lack}; {advice}")
        try:
            index = json.loads(where.read_text())
        except ValueError as error:
            raise SynthError(f"no generator at {options.model}: {where.absolute()} is not JSON ({error})") from error
    else:
        try:
            with quiet_loading():
                index = dict(DiffusionPipeline.load_config(options.model, revision=options.revision))
        except (OSError, ValueError) as error:
            raise SynthError(
                f"no generator called {options.model}: there is no folder {folder.absolute()}, and neither the local Hub cache nor "
                f"the Hub gave its model_index.json; run `hf download {options.model}` where there is a network, or give a folder"
            ) from error
    if "_class_name" not in index:
        raise SynthError(f"no generator at {options.model}: its model_index.json names no _class_name")
    name = index["_class_name"]
    return (name if isinstance(name, str) else str(name[-1])), index


def _load(options: GeneratorOptions, dtype: torch.dtype, name: str, index: dict[str, Any]) -> Any:
    more: dict[str, Any] = {}
    if "safety_checker" in index:
        more |= {"safety_checker": None, "requires_safety_checker": False}
    if options.device_map is not None:
        more["device_map"] = options.device_map
    model = str(Path(options.model).expanduser()) if Path(options.model).expanduser().exists() else options.model
    loader = getattr(importlib.import_module("diffusers"), name) if name in _FAMILIES else AutoPipelineForText2Image
    try:
        with quiet_loading(), quiet_generators(torch.device("cpu")):
            if options.vae is not None:
                more["vae"] = AutoencoderKL.from_pretrained(options.vae, dtype=dtype, use_safetensors=True)
            return loader.from_pretrained(
                model,
                dtype=dtype,
                revision=options.revision,
                variant=options.variant,
                use_safetensors=True,
                **more,
            )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        RuntimeError,
        SafetensorError,
    ) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        raise SynthError(f"the {name} in {model} cannot be loaded: {reason}") from error


def _place(pipeline: Any, options: GeneratorOptions, device: torch.device) -> None:
    if options.offload != "none":
        if device.type != "cuda" or options.device_map is not None:
            raise SynthError(
                "offload moves a model's parts to one CUDA device as they are used: it needs one, and no device_map"
            )
        act = (
            pipeline.enable_model_cpu_offload if options.offload == "model" else pipeline.enable_sequential_cpu_offload
        )
        act(device=device)
    elif options.device_map is None:
        pipeline.to(device)
    if options.attention == "slicing":
        pipeline.enable_attention_slicing()
    elif options.attention is not None:
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        try:
            denoiser.set_attention_backend(options.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise SynthError(
                f"attention {options.attention!r} is not available here: {str(error).splitlines()[0]}"
            ) from error
    if options.vae_slicing:
        pipeline.vae.enable_slicing()
    if options.vae_tiling:
        pipeline.vae.enable_tiling()


def _text_to_image_classes() -> set[str]:
    return {member.__name__ for member in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
