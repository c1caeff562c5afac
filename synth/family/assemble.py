"""From the weights of a family to folders that diffusers and transformers load, and from models to weights.

The autoencoder is in both generators' folders, by value: each stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from synth.errors import SynthError
from synth.family import shapes
from synth.family.config import Family
from synth.quiet import quiet_generators, quiet_loading

State = Mapping[str, Tensor]


def packed(model: nn.Module, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Copy the model's weights to the CPU in `dtype`, ready for safetensors; SynthError when one is beyond the type's range."""
    state = {name: value.detach().cpu().to(dtype).contiguous() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise SynthError(f"the weight {name} does not fit {dtype}: the training diverged")
    return state


def built(part: str, family: Family, state: State | None = None) -> Any:
    """Build the model of a part in float32 with the weights of `state`, in eval mode and frozen.

    Without `state` its weights are random, drawn from torch's global generator, and it is left to be trained. SynthError where the
    weights do not fit.
    """
    model: Any
    if state is None:
        return _new(part, family)
    with quiet_generators(torch.device("cpu")):
        model = _new(part, family)
    try:
        model.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        raise SynthError(f"the weights of {part} do not fit its shape: {' '.join(str(error).split())[:300]}") from error
    return model.eval().requires_grad_(False)


def training_schedule(family: Family, role: str) -> Any:
    """Build the noise schedule that the denoiser of `role`, `text` or `classes`, is trained under."""
    return DDPMScheduler(**family.schedules[role])


def assemble(
    family: Family,
    parts: Mapping[str, State],
    tokenizer: CLIPTokenizer | None,
    out: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `out`/text, a StableDiffusionPipeline, `out`/classes, a DiTPipeline, and `out`/clip, a CLIPModel with its tokenizer.

    `parts` has the state dict of each of the family's parts, in any float type; the folders hold `dtype`. A family without words has
    no tokenizer, and `out`/classes alone is written. The same input gives the same bytes.
    """
    with quiet_loading(), quiet_generators(torch.device("cpu")):
        models = {part: built(part, family, parts[part]).to(dtype) for part in family.parts}
        if tokenizer is not None:
            _save_text(family, models, tokenizer, out)
        classes: Any = DiTPipeline(
            transformer=models["dit"], vae=models["vae"], scheduler=_sampling_schedule(family, "classes")
        )
        classes.save_pretrained(out / "classes", safe_serialization=True)
        _add_class_names(out / "classes" / "model_index.json", family)


def _save_text(family: Family, models: Mapping[str, Any], tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the folders of the models that read texts."""
    clip = models["clip"]
    text: Any = StableDiffusionPipeline(
        vae=models["vae"],
        text_encoder=_text_tower(clip).to(clip.dtype),
        tokenizer=tokenizer,
        unet=models["unet"],
        scheduler=_sampling_schedule(family, "text"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    text.save_pretrained(out / "text", safe_serialization=True)
    clip.save_pretrained(out / "clip", safe_serialization=True)
    tokenizer.save_pretrained(out / "clip")
    side = family.shape.size
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        out / "clip"
    )


def _new(part: str, family: Family) -> Any:
    shape = family.shape
    if part == "vae":
        model: Any = shapes.autoencoder(shape)
        model.register_to_config(scaling_factor=family.scaling)
        return model
    if part == "clip":
        return shapes.clip(shape, family.vocabulary)
    return shapes.text_unet(shape) if part == "unet" else shapes.class_dit(shape, len(family.classes))


def _text_tower(clip: Any) -> Any:
    """Copy CLIP's text tower to a model of its own; SynthError where this release calls its weights by other names."""
    tower = CLIPTextModel(clip.config.text_config)
    wanted = set(tower.state_dict())
    for prefix in ("text_model.", ""):  # transformers 5 dropped the tower's own prefix
        state = {name.removeprefix(prefix): value for name, value in clip.state_dict().items() if "text_model." in name}
        if set(state) == wanted:
            tower.load_state_dict(state)
            return tower.eval()
    raise SynthError("the text tower of this transformers release has weights of other names")


def _sampling_schedule(family: Family, role: str) -> Any:
    """Build DDIM over the noise of training, as Stable Diffusion's folders have it: latents have no bounds to clip to."""
    return DDIMScheduler(**family.schedules[role], clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _add_class_names(path: Path, family: Family) -> None:
    """Add the class names by label to a written model_index.json, as the published DiT folder has them; diffusers only reads them."""
    index = json.loads(path.read_text())
    index["id2label"] = {str(label): name for label, name in enumerate(family.classes)}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
