"""What a generator is told of a class, as published, and with a context of its own (BOB) as a switch.

Grammar is not repaired and underscores are kept ("a satellite photo of a AnnualCrop"): the prompt of adaptation, of generation
and of the classifier's text tower must be the same string. Class names are told as they are, with any "/" in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from augment.seeds import operation_seed
from synth.errors import SynthError


def class_prompt(name: str, domain: str = "") -> str:
    """The first of DataDream's templates, the only one that it uses: "a {domain }photo of a {name}"."""
    return f"a {domain + ' ' if domain else ''}photo of a {name}"


@dataclass(frozen=True)
class Context:
    """What shows in an image besides its class: the object's pose and the background, as short phrases; either may be empty."""

    pose: str = ""
    background: str = ""

    def tell(self, prompt: str) -> str:
        """`prompt` with this context behind it."""
        return ", ".join(part for part in (prompt, self.pose, self.background) if part)


@dataclass(frozen=True)
class ContextBank:
    """Contexts of the real images, written by hand or by a captioning model, in the spirit of BOB (2025).

    Adaptation tells each image's own context, so that the adapter need not absorb it into the class; generation draws one from
    the contexts of *all* classes, so that none belongs to a class. Both stages need it, or neither.
    """

    by_image: Mapping[str, Context]

    def __post_init__(self) -> None:
        if not self.by_image:
            raise SynthError("the context bank is empty: give a context for each few-shot image")

    def training_prompt(self, name: str, key: str, domain: str = "") -> str:
        """What adaptation is told of the image `key`."""
        if key not in self.by_image:
            raise SynthError(f"the context bank has no entry for image {key}: every few-shot image needs one")
        return self.by_image[key].tell(class_prompt(name, domain))

    def generation_prompts(self, name: str, count: int, run_seed: int, domain: str = "") -> list[str]:
        """`count` prompts of a class; the i-th follows from (run seed, class, i) alone, with every context equally likely."""
        contexts = [self.by_image[key] for key in sorted(self.by_image)]
        prompt = class_prompt(name, domain)
        places = (operation_seed(run_seed, name, f"datadream/context/{i}") % len(contexts) for i in range(count))
        return [contexts[place].tell(prompt) for place in places]


def generation_prompts(
    name: str, count: int, *, domain: str = "", bank: ContextBank | None = None, run_seed: int = 0
) -> Sequence[str]:
    """The prompts of a class's images: always the same, or with a context each."""
    if bank is None:
        return [class_prompt(name, domain)] * count
    return bank.generation_prompts(name, count, run_seed, domain)
