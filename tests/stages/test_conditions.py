"""Which number, or which prompt, a generator is asked with for a class of the training set: by name, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts.conditions import class_numbers, class_prompts
from pipelines.artifacts.families import FAMILY_FILE
from pipelines.artifacts.generators import GENERATOR_FILE
from pipelines.config import RunParams, Section
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.storage import pretty_json
from tests.sealing import seal
from tests.stages.tiny_family import family

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")


def job_with(root: Path, files: dict[str, Any], kind: str = "folder") -> Any:
    """A job whose `generator` names a class model in `classes`, with these JSON files."""
    folder = root / "data/generator"
    for name, form in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pretty_json(form))
    model = "classes" if kind == "folder" else str(folder / "classes")
    entry = {"kind": kind, "model": model, "family": "dit", "native_size": None, "digest": "0" * 64}
    (folder / GENERATOR_FILE).write_bytes(pretty_json({"text": None, "classes": entry, "clip": None}))
    seal(folder, "generator")
    return Job("cda", Section(), RunParams(), str(root / "data"))


def named(labels: list[str]) -> dict[str, Any]:
    index = {"_class_name": "DiTPipeline", "id2label": {str(place): label for place, label in enumerate(labels)}}
    return {"classes/model_index.json": index}


@pytest.mark.parametrize("kind", ["folder", "reference"])
def test_classes_are_found_by_any_of_their_names_and_in_any_order(tmp_path: Path, kind: str) -> None:
    job = job_with(tmp_path, named(["tench, Tinca tinca", "goldfish", "English foxhound"]), kind)
    assert class_numbers(job, ["english_foxhound", "Tinca tinca"], {}) == [2, 0]
    assert class_numbers(job, ["fish", "dog"], {"fish": "goldfish", "dog": "English foxhound"}) == [1, 2]


def test_a_class_that_the_model_does_not_have_is_named(tmp_path: Path) -> None:
    job = job_with(tmp_path, named(["tench", "goldfish"]))
    with pytest.raises(
        UserError, match=r"does not know 'church' \(it knows tench, goldfish\); write under cda.names what it calls"
    ):
        class_numbers(job, ["tench", "church"], {})


def test_two_classes_may_not_be_one_to_the_model(tmp_path: Path) -> None:
    job = job_with(tmp_path, named(["tench", "goldfish"]))
    with pytest.raises(UserError, match="'tench' and 'fish' are one class to the class model"):
        class_numbers(job, ["tench", "fish"], {"fish": "tench"})


def test_a_model_without_names_is_taken_by_number_where_it_has_as_many(tmp_path: Path) -> None:
    files = {"classes/model_index.json": {}, "classes/transformer/config.json": {"num_embeds_ada_norm": 2}}
    job = job_with(tmp_path, files)
    assert class_numbers(job, ["b", "a"], {}) == [0, 1]
    with pytest.raises(UserError, match="has 2 classes without names and the training set 3"):
        class_numbers(job, ["a", "b", "c"], {})


def test_a_family_knows_its_classes_and_the_words_for_them(tmp_path: Path) -> None:
    job = job_with(tmp_path, {FAMILY_FILE: family(("Bag", "Coat")).to_json()})
    assert class_numbers(job, ["coat", "Bag"], {}) == [1, 0]
    assert class_prompts(job, ["Coat", "tench"], {}) == ["a photo of a coat", "a photo of a tench"]
    with pytest.raises(UserError, match="'Coat' and 'Bag' have one prompt"):
        class_prompts(job, ["Coat", "Bag"], {"Bag": "coat"})
