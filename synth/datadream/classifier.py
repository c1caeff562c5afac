"""The classifier of DataDream's third stage: CLIP with LoRA on queries and values, its classes the texts of their names.

Numbers are the published ones (`docs/specs/datadream.md`, classifier). Departures, all of them exact: token rows are cut to the
longest class's (the text tower is causal and reads its pooled token's place only), and evaluation computes the texts once. Training
is in `fit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn.functional import normalize
from transformers import CLIPModel

from synth.datadream.texts import Reader, require_distinct
from synth.errors import SynthError
from synth.quiet import quiet_generators

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LORA_TARGETS = ("q_proj", "v_proj")


def classifier_lora(rank: int = 16, alpha: int = 32, dropout: float = 0.1) -> LoraConfig:
    """Return the published LoRA: queries and values of both towers, scale 2. (peft draws a mask for each projection, loralib one.)"""
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(LORA_TARGETS))


class ClipHead(nn.Module):
    """Classifies images by CLIP: logits are exp(logit scale) times the cosine of image and class text.

    `prompts`: one or more texts for each class, whose features are averaged and normalised again. Nothing is frozen. SynthError where two
    classes' texts are the same to the model.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, prompts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        if not prompts or not all(prompts):
            raise SynthError("the classifier needs one prompt or more for each class")
        text_config: Any = model.config.text_config
        firsts = [texts[0] for texts in prompts]
        require_distinct(firsts, prompts, [Reader.of_clip(tokenizer, text_config)], "their prompts")
        self.model = model
        config: Any = model.config
        flat = [text for texts in prompts for text in texts]
        self.tokens: torch.Tensor
        self.owner: torch.Tensor
        self.register_buffer("tokens", token_rows(tokenizer, flat, config.text_config.max_position_embeddings))
        owner = torch.tensor([number for number, texts in enumerate(prompts) for _ in texts])
        self.register_buffer("owner", owner)
        self.classes = len(prompts)
        side = config.vision_config.image_size
        self.size: tuple[int, int] = (side, side) if isinstance(side, int) else (side[0], side[1])

    def trainable(self) -> list[nn.Parameter]:
        """Return the weights that are not frozen."""
        return [weight for weight in self.parameters() if weight.requires_grad]

    def prompt_features(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Embed all prompts, or those of `rows` (n,) int64, to (n, d), rows of length 1."""
        tokens = self.tokens if rows is None else self.tokens[rows]
        return normalize(_features(self.model.get_text_features(input_ids=tokens)), dim=-1)

    def text_features(self) -> torch.Tensor:
        """Embed the classes' texts to (classes, d), rows of length 1."""
        each = self.prompt_features()
        sums = each.new_zeros(self.classes, each.shape[1]).index_add_(0, self.owner, each)
        return normalize(sums, dim=-1)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Embed `images` (n, 3, h, w) in [0, 1] at the model's size to (n, d), rows of length 1; SynthError for another size."""
        if tuple(images.shape[2:]) != self.size:
            raise SynthError(
                f"this CLIP sees {self.size[0]}x{self.size[1]} pixels, got {images.shape[2]}x{images.shape[3]}"
            )
        mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return normalize(_features(self.model.get_image_features(pixel_values=(images - mean) / std)), dim=-1)

    def forward(self, images: torch.Tensor, texts: torch.Tensor | None = None) -> torch.Tensor:
        """Compute logits (n, classes) float32; `texts` are `text_features` that were computed before, if any."""
        texts = self.text_features() if texts is None else texts
        return (self.model.logit_scale.exp() * self.image_features(images) @ texts.T).float()

    def state(self) -> dict[str, torch.Tensor]:
        """Copy the weights that are not frozen to the CPU, by name."""
        return {name: p.detach().cpu().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what `state` gave; SynthError for weights of other names."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if set(own) != set(state):
            raise SynthError(
                f"these are weights of another classifier: it has {len(own)} tensors that train, these are {len(state)}"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


class ClipClassifier(ClipHead):
    """DataDream's classifier: only LoRA's weights train, from a start that follows from `seed`; the logit scale is frozen too.

    `model` is taken over: adapters are put into it.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Any,
        prompts: Sequence[Sequence[str]],
        lora: LoraConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, tokenizer, prompts)
        with quiet_generators(model.device):  # what is not LoRA is frozen by it, the temperature too
            inject_adapter_in_model(lora or classifier_lora(), model, "default")
        source = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if ".lora_A." in name:  # as loralib, but from a generator: the same on any device
                weight.data.copy_(nn.init.kaiming_uniform_(torch.empty(weight.shape), a=math.sqrt(5), generator=source))


def token_rows(tokenizer: Any, texts: Sequence[str], length: int) -> torch.Tensor:
    """Tokenise texts to ids (texts, longest) int64, padded to the longest and cut at `length`."""
    return tokenizer(list(texts), padding="longest", truncation=True, max_length=length, return_tensors="pt").input_ids


def _features(output: Any) -> torch.Tensor:
    """Take the tensor out of what CLIP's towers return: transformers 5 gives an object where 4 gave the tensor."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
