"""Prompts of hard images' classes: a template, descriptions of scenes, or the template with a context of any class (BOB).

Which of a class's prompts an image gets follows from (run seed, key, ordinal, attempt) alone. Published is a generator seeded with
Python's salted `hash`, which no second process repeats (`docs/specs/discl.md`, prompts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from augment.seeds import operation_seed
from synth.datadream.prompts import ContextBank
from synth.errors import SynthError

#: The published templates of the class's text, which scores are taken against.
TEMPLATES: Mapping[str, str] = {"imagenet_lt": "a photo of {c}", "iwildcam": "a photo of {c} in the wild"}
DESCRIPTION_PREFIX = "a 8k real photo: "


@dataclass(frozen=True)
class PromptBook:
    """The prompts of all classes.

    `template` has {c} where the class's name goes. Each class's prompt is that; with `descriptions`, by class name, `prefix` and one of
    the class's own; with `contexts`, the template and a pose and background from any image of any class. SynthError for a template
    without {c}, and for descriptions and contexts together.
    """

    template: str = TEMPLATES["imagenet_lt"]
    descriptions: Mapping[str, Sequence[str]] | None = None
    prefix: str = DESCRIPTION_PREFIX
    contexts: ContextBank | None = None

    def __post_init__(self) -> None:
        if "{c}" not in self.template:
            raise SynthError(f"a template has {{c}} where the class's name goes, got {self.template!r}")
        if self.descriptions is not None and self.contexts is not None:
            raise SynthError("prompts are of descriptions or of contexts: give one of the two")

    def class_text(self, name: str) -> str:
        """Return the text of a class, which its images are scored against."""
        return self.template.replace("{c}", name)

    def require(self, names: Iterable[str]) -> None:
        """Raise SynthError for the first of the classes `names` that has no prompt: before any image is made, not instead of it."""
        for name in names:
            self.candidates(name)

    def candidates(self, name: str) -> Sequence[str]:
        """Return all prompts of a class, different from one another, in the order of the bank; SynthError where there is none."""
        if name not in self._by_class:
            self._by_class[name] = self._collected(name)
        return self._by_class[name]

    def choose(self, name: str, key: str, ordinal: int, attempt: int, run_seed: int) -> str:
        """Return the prompt of an attempt at image `ordinal` of the real image `key`, of class `name`.

        Every prompt of the class is equally likely at first, and none comes twice before all have come once.
        """
        prompts = self.candidates(name)
        return prompts[_place(len(prompts), key, ordinal, attempt % len(prompts), run_seed)]

    @cached_property
    def _by_class(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _collected(self, name: str) -> tuple[str, ...]:
        if self.contexts is not None:
            contexts = (self.contexts.by_image[key] for key in sorted(self.contexts.by_image))
            return tuple(dict.fromkeys(context.added_to(self.class_text(name)) for context in contexts))
        if self.descriptions is None:
            return (self.class_text(name),)
        descriptions = self.descriptions.get(name, ())
        if isinstance(descriptions, str):
            raise SynthError(
                f"the descriptions of class {name!r} are a list of texts, and one text came: {descriptions!r}"
            )
        texts = tuple(dict.fromkeys(text.strip() for text in descriptions if text.strip()))
        if not texts:
            raise SynthError(
                f"the description bank has nothing for class {name!r}, among its {len(self.descriptions)}: add descriptions under that "
                "name, or leave the bank out"
            )
        return tuple(self.prefix + text for text in texts)


def _place(count: int, key: str, ordinal: int, turn: int, run_seed: int) -> int:
    """Return the place, of `count`, that comes at `turn` of an image's shuffle (a card shuffle, only as far as it is asked for)."""
    moved: dict[int, int] = {}
    chosen = 0
    for step in range(turn + 1):
        place = step + operation_seed(run_seed, key, f"discl/prompt/{ordinal}/{step}") % (count - step)
        chosen = moved.get(place, place)
        moved[place] = moved.get(step, step)
    return chosen
