"""What a generator is asked for to show each class of a training set: the class's number in the model, or a prompt.

A class model has numbers of its own, so a class is looked up by name where the model names its classes. Files and JSON only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.artifacts.generators import class_count, class_labels, family_of, generator_of
from pipelines.errors import UserError
from pipelines.runtime.job import Job

#: Names in a sentence.
_NAMED = 4


def class_numbers(job: Job[Any], classes: Sequence[str], names: Mapping[str, str]) -> list[int]:
    """The number that the class model has for each of `classes`, by the name in `names` or the class's own.

    A model that does not name its classes is taken by number where it has as many as there are. `UserError` for a class that the model
    does not have, and for two classes that are one to it.
    """
    section, known = job.stage, _synonyms(job)
    if known is None:
        model = _model(job)
        if (count := class_count(model)) != len(classes):
            raise UserError(
                f"the class model {model} has {count} classes without names and the training set {len(classes)}, so nobody can say "
                f"which is which; write id2label into its model_index.json, then: limbeck run generator"
            )
        return list(range(len(classes)))
    numbers: dict[int, str] = {}
    for name in classes:
        word = names.get(name, name)
        number = next((label for label, words in enumerate(known) if _plain(word) in words), None)
        if number is None:
            raise UserError(
                f"the class model does not know {word!r} (it knows {_few([min(words) for words in known])}); write under "
                f"{section}.names what it calls {name!r}, or take another model: generator.source: model and generator.model.classes"
            )
        if number in numbers:
            raise UserError(
                f"{numbers[number]!r} and {name!r} are one class to the class model; give each its own in {section}.names"
            )
        numbers[number] = name
    return list(numbers)


def class_prompts(job: Job[Any], classes: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The prompt of each of `classes`: `a photo of a ...`, by the name in `names`, a small family's own noun, or the class's own name.

    `UserError` for two classes with one prompt.
    """
    from synth.datadream.prompts import class_prompt

    family = family_of(job)
    nouns = {} if family is None else dict(zip(family.classes, family.nouns, strict=True))
    prompts = [class_prompt(names.get(name, nouns.get(name, name))) for name in classes]
    for place, prompt in enumerate(prompts):
        if (first := prompts.index(prompt)) != place:
            raise UserError(
                f"{classes[first]!r} and {classes[place]!r} have one prompt, {prompt!r}; give each its own in {job.stage}.names"
            )
    return prompts


def _synonyms(job: Job[Any]) -> list[set[str]] | None:
    """By class number the names that a class goes by; None where the model has none."""
    family = family_of(job)
    if family is not None:
        nouns = family.nouns if len(family.nouns) == len(family.classes) else family.classes
        return [{_plain(name), _plain(noun)} for name, noun in zip(family.classes, nouns, strict=True)]
    labels = class_labels(_model(job))
    # ImageNet's names are lists of synonyms: "tench, Tinca tinca".
    return None if labels is None else [{_plain(label), *map(_plain, label.split(","))} for label in labels]


def _model(job: Job[Any]) -> str:
    """The folder or the id of the class model."""
    generator = generator_of(job, "classes")
    return generator.model if generator.kind == "reference" else job.input("generator").child(generator.model).url


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
