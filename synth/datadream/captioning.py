"""Captioning of images by a vision-language model, for prompts as BOB has them (see `prompts.ContextBank`).

Any model that transformers loads for image-text-to-text serves, from a folder or an id. One that chats is asked for pose and
background apart; one that only captions (BLIP, GIT) gives its caption as the background, the class's name included.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from synth.datadream.prompts import Context
from synth.errors import SynthError
from synth.quiet import quiet_loading

QUESTIONS = {
    "pose": "In at most six words, say from which side and in which pose the main object is shown. Do not name it.",
    "background": "In at most eight words, describe the background of this image. Do not name the main object.",
}
#: Characters to which an answer is cut: CLIP reads 77 tokens in all.
LONGEST = 80


class Captioner:
    """Describes an image (3, h, w) float in [0, 1] when called. Greedy, one image at a time: always the same answer.

    SynthError where no model loads from `model`.
    """

    def __init__(self, model: str, device: torch.device, words: int = 24) -> None:
        self.device, self.words = device, words
        try:
            with quiet_loading():
                self.processor: Any = AutoProcessor.from_pretrained(model)
                loaded: Any = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise SynthError(
                f"no vision-language model at {model}: {lines[0].rstrip('.')}; give a folder that save_pretrained wrote, with its "
                "processor, or an id"
            ) from error
        self.model = loaded.to(device).eval()
        self.chats = getattr(self.processor, "chat_template", None) is not None

    def __call__(self, image: torch.Tensor) -> Context:
        levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        if not self.chats:
            return Context(background=self._answer(self.processor(images=levels, return_tensors="pt")))
        answers = {}
        for part, question in QUESTIONS.items():
            content = [{"type": "image", "image": levels}, {"type": "text", "text": question}]
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            answers[part] = self._answer(inputs)
        return Context(**answers)

    @torch.no_grad()
    def _answer(self, inputs: Any) -> str:
        inputs = inputs.to(self.device)
        tokens = self.model.generate(**inputs, max_new_tokens=self.words, do_sample=False)
        if self.chats and "input_ids" in inputs:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return as_phrase(self.processor.batch_decode(tokens, skip_special_tokens=True)[0])


def as_phrase(answer: str) -> str:
    """Trim an answer to a phrase behind a comma: one line, without a full stop or a capital at its start, cut at a word."""
    text = " ".join(answer.split()).strip(" .,;:")
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(" ", 1)[0].rstrip(" .,;:")
    return text[:1].lower() + text[1:] if text[1:2].islower() or len(text) == 1 else text
