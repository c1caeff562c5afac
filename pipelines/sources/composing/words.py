"""What is said of a scene: a caption by a small grammar, and a structured description.

The description follows BACON's parts (style, background, objects with boxes, relations; arXiv 2407.03314) as plain JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.sources.composing.draws import Draws

STYLES = {"base": "tinted cut-outs on a flat background", "target": "grey product shot under side light"}


@dataclass(frozen=True)
class Thing:
    """One item as words need it: its class, what it is called, its colour, and its box x1, y1, x2, y2."""

    label: str
    noun: str
    colour: str
    box: tuple[int, int, int, int]

    @property
    def phrase(self) -> str:
        return f"{self.colour} {self.noun}"


def noun_of(label: str) -> str:
    """A class name as a word in a sentence: `T-shirt/top` is a t-shirt."""
    return label.split("/")[0].strip().replace("_", " ").lower()


def caption(things: Sequence[Thing], texture: str, colour: str, draws: Draws) -> str:
    """Things from left to right. One caption in eight leaves out the background, one in eight the colours as well."""
    detail = draws.whole("detail", 8)
    phrases = [a(thing.noun if detail == 0 else thing.phrase) for thing in things]
    said = listed(phrases)
    if len(things) == 2 and draws.chance("relation", 0.4):
        said = f"{phrases[0]} {relation(things[0].box, things[1].box)} {phrases[1]}"
    if draws.chance("photo", 0.25):
        said = f"a photo of {said}"
    return said if detail < 2 else f"{said} on {a(f'{texture} {colour} background')}"


def target_caption(thing: Thing) -> str:
    """Names the class and nothing else, as a few-shot set does."""
    return f"a photo of {a(thing.noun)}"


def describe(things: Sequence[Thing], background: tuple[str, str | None], domain: str) -> dict[str, Any]:
    """The description of a scene; `background` is its texture and colour name. Objects stand as in the caption.

    Ids are nouns with a running number. There is a relation for each pair of objects, told of the first.
    """
    texture, colour = background
    seen: dict[str, int] = {}
    objects: list[dict[str, Any]] = []
    for thing in things:
        seen[thing.noun] = seen.get(thing.noun, 0) + 1
        name = f"{thing.noun}{seen[thing.noun]}"
        facts = {"id": name, "label": thing.label, "phrase": thing.phrase, "colour": thing.colour}
        objects.append(facts | {"box": list(thing.box)})
    relations = []
    for place, first in enumerate(things):
        for other in range(place + 1, len(things)):
            word = relation(first.box, things[other].box)
            content = f"the {first.phrase} is {word} the {things[other].phrase}"
            pair = {"subject": objects[place]["id"], "predicate": word, "object": objects[other]["id"]}
            relations.append(pair | {"content": content})
    content = f"{texture} {colour}" if colour else texture
    return {
        "style": STYLES[domain],
        "background": {"content": f"{a(content)} background", "texture": texture, "colour": colour},
        "objects": objects,
        "relations": relations,
    }


def relation(first: Sequence[int], second: Sequence[int]) -> str:
    """Where the first box lies as seen from the second, along the axis on which their middles are further apart."""
    right = second[0] + second[2] - first[0] - first[2]
    down = second[1] + second[3] - first[1] - first[3]
    if abs(right) >= abs(down):
        return "left of" if right >= 0 else "right of"
    return "above" if down > 0 else "below"


def a(phrase: str) -> str:
    return f"{'an' if phrase[:1] in 'aeiou' else 'a'} {phrase}"


def listed(phrases: Sequence[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
