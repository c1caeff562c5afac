"""Prompts of a class, as published, or with a context for each image (BOB).

Grammar is not repaired and underscores are kept ("a satellite photo of a AnnualCrop"): the prompt of adaptation, of generation and
of the classifier's text tower must be the same string. Class names stay as they are, with any "/" in them. The published domain
words are in `docs/specs/datadream.md`, prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from augment.seeds import operation_seed
from synth.errors import SynthError


def class_prompt(name: str, domain: str = "") -> str:
    """Fill the first of DataDream's templates, the only one that it uses: "a {domain }photo of a {name}"."""
    return f"a {domain + ' ' if domain else ''}photo of a {name}"


@dataclass(frozen=True)
class Context:
    """The context of an image besides its class: the object's pose and the background, as short phrases; either may be empty."""

    pose: str = ""
    background: str = ""

    def added_to(self, prompt: str) -> str:
        """Append this context to `prompt`."""
        return ", ".join(part for part in (prompt, self.pose, self.background) if part)


@dataclass(frozen=True)
class ContextBank:
    """The contexts of the real images, written by hand or by a captioning model, after BOB (2025).

    Adaptation puts each image's own context into its prompt, so that the adapter need not absorb it into the class; generation draws
    one from the contexts of *all* classes, so that none belongs to a class. Both need it, or neither.
    """

    by_image: Mapping[str, Context]

    def __post_init__(self) -> None:
        if not self.by_image:
            raise SynthError("the context bank is empty: give a context for each few-shot image")

    def training_prompt(self, name: str, key: str, domain: str = "") -> str:
        """Return the prompt of the image `key` in adaptation; SynthError where it has no context."""
        if key not in self.by_image:
            raise SynthError(f"the context bank has no entry for image {key}: every few-shot image needs one")
        return self.by_image[key].added_to(class_prompt(name, domain))

    def generation_prompts(self, name: str, count: int, run_seed: int, domain: str = "") -> list[str]:
        """Draw `count` prompts of a class; the i-th follows from (run seed, class, i) alone, with every context equally likely."""
        contexts = [self.by_image[key] for key in sorted(self.by_image)]
        prompt = class_prompt(name, domain)
        places = (operation_seed(run_seed, name, f"datadream/context/{i}") % len(contexts) for i in range(count))
        return [contexts[place].added_to(prompt) for place in places]


def generation_prompts(
    name: str, count: int, *, domain: str = "", bank: ContextBank | None = None, run_seed: int = 0
) -> Sequence[str]:
    """Return the prompts of `count` images of a class: always the same, or with a drawn context each where there is a `bank`."""
    if bank is None:
        return [class_prompt(name, domain)] * count
    return bank.generation_prompts(name, count, run_seed, domain)
