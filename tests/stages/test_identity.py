"""What a unit is made of: the content of its rows and not its place, and every parameter that is not declared to decide no byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipelines.commands.jobs import make_job, make_jobs, section_models
from pipelines.config import SPEED_ONLY, effect_of, load_sections, read_params
from pipelines.errors import UserError
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job, Stage
from pipelines.stages import STAGES, get_stage
from tests.contract.golden import COMPUTED, computed

# a place is not content


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")
    folder = tmp_path_factory.mktemp("identity")
    computed(folder)
    sets = {"views": {"policy": ["horizontal_flip"], "views": 2, "format": "png"}}
    shutil.copy(folder / "data/squeeze/teacher.safetensors", folder)
    shutil.copytree(folder / "data/generator/parts", folder / "family")
    for role in ("text", "classes", "clip"):
        shutil.copytree(folder / "data/generator" / role, folder / "models" / role)
    (folder / "data.yaml").write_text(yaml.safe_dump({**COMPUTED, "augment": {"sets": sets}}))
    return folder


@pytest.fixture
def planned(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Identities by unit name of a stage with other parameters."""
    monkeypatch.chdir(root)
    return lambda stage, *overrides: identities_of(make_job(stage, "data.yaml", overrides))


def identities_of(job: Job[Any]) -> dict[str, str]:
    return prepare(get_stage(job.stage), job).identities


VIEWS = "{policy: [horizontal_flip], views: 2, format: png, tag: TAG}"


def test_a_view_set_before_another_leaves_it_as_it_is(planned: Callable[..., dict[str, str]]) -> None:
    later = VIEWS.replace("TAG", "b")
    alone = planned("augment", f"augment.sets={{later: {later}}}")
    both = planned("augment", f"augment.sets={{earlier: {VIEWS.replace('TAG', 'a')}, later: {later}}}")
    assert alone.items() < both.items()


def test_more_shards_of_train_leave_val_and_test_as_they_are(planned: Callable[..., dict[str, str]]) -> None:
    one, more = planned("split"), planned("split", "split.shard_samples=4")
    assert len([name for name in more if name.startswith("train")]) == 3
    assert {name for name in one if one[name] == more.get(name)} == {"val/split-000000"}  # test has two shards now
    assert planned("split", "split.shard_samples=8")["test/split-000000"] == one["test/split-000000"]


def test_more_images_leave_the_blocks_that_are_full_as_they_are(planned: Callable[..., dict[str, str]]) -> None:
    for stage, few, more in (
        ("datadream@cls", "datadream.images=2", "datadream.images=5"),
        ("cda", "cda.ipc=2", "cda.ipc=3"),
        ("relabel", "relabel.epochs=2", "relabel.epochs=5"),
    ):
        before, after = planned(stage, few), planned(stage, more)
        stay = {name: after.get(name) for name in before if name.split("/")[0] not in ("kept", "quality")}
        assert stay == {name: before[name] for name in stay}
        assert len(after) > len(before)


# every parameter

#: Other values where a rule for one kind of value knows none: paths that are there, names, what goes together.
OTHERS: Mapping[str, Any] = {
    "ingest.sources": [{"type": "folder", "path": "source/train"}],
    "ingest.shard_samples": 5,
    "split.few_shot": [1],
    "split.few_shot_seeds": [2],
    "split.shard_samples": 4,
    "split.profiles.tail.tail.counts": {"left": 2},
    "augment.source": "split/val",
    "augment.shard_samples": 4,
    "augment.sets.views.policy": "imagenet",
    "augment.sets.views.tag": "b",
    "augment.sets.views.samples": 2,
    "squeeze.network": "convnet2_w4",
    "squeeze.weights": "teacher.safetensors",
    "cda.class_chunk": 1,
    "cda.slots_per_unit": 2,
    "ingest.caption": "a {label_name}",
    "cda.caption": "a {label_name}",
    "relabel.ipc": [1],
    "generator.folder": "family",
    "generator.model.text": "models/text",
    "generator.model.classes": "models/classes",
    "generator.model.clip": "models/clip",
    "generator.source": "embedded",
    "generator.train.scenes": "data/ingest",
    "datadream.variants": ["zero_shot", "cls"],
    "datadream.shots": [1],
    "datadream.loft_shots": [1],
    "datadream.seeds": [1],
    "datadream.names": {"left": "other"},
    "datadream.domain": "other",
    "datadream.context": "data.yaml",
    "datadream.captioner": "some/model",
    "datadream.inception": "data.yaml",
    "datadream.reference": None,
    "datadream.images_per_unit": 1,
    "datadream.dset": {"steps": 1},
    "discl.names": {"left": "other"},
    "discl.prompts.template": "the {c}",
    "discl.curricula.strategies": ["random"],
    "discl.hard.rule": "quality",
    "discl.hard.share": 0.9,
    "discl.hard.network": "convnet2_w4",
    "coreset.methods": ["random"],
    "coreset.rded.factor": 2,
    "coreset.caption": "a {label_name}",
    "cudd.class_chunk": 1,
    "cudd.slots_per_unit": 2,
    "cudd.caption": "a {label_name}",
    "cudd.curricula": [2],
    "cudd.curriculum.defects": ["label_0"],
    "cudd.student.network": "convnet2_w8",
    "dm.class_chunk": 5,
    "dm.caption": "a {label_name}",
    "dm.match.network": "convnet2_w4_in",
    "dm.match.pool.snapshots": [1],
    "samples.methods": ["plain"],
    "samples.names": {"left": "right", "right": "left"},
    "samples.images_per_class": 3,
    "samples.caption": "a {label_name}",
    "d3hr.variants": ["improved"],
    "d3hr.names": {"left": "right", "right": "left"},
    "d3hr.invert.mode": "reference",
    "d3hr.invert.level": 400,
    "d3hr.invert.guidance": 2.0,
    "d3hr.select.mode": "reference",
    "d3hr.select.group": "random",
    "d3hr.select.noise": "global",
    "d3hr.select.precision": "float16",
    "d3hr.sweep.levels": [400],
    "d3hr.sweep.guidances": [2.0],
    "d3hr.reference.candidates": 20_000,
    "evaluate.note": "other",
    "evaluate.distilled.networks": ["convnet2_w4"],
    "evaluate.distilled.at_epochs": [1],
    "evaluate.distilled.ipc": [1],
    "evaluate.distilled.arms": ["random_hard"],
    "evaluate.distilled.label_formats": ["int8"],
    "evaluate.datadream.variants": ["cls"],
    "evaluate.datadream.shots": [1],
    "evaluate.datadream.loft_shots": [1],
    "evaluate.datadream.arms": ["full"],
    "evaluate.datadream.images": 1,
    "evaluate.datadream.steps": 3,
    "evaluate.datadream.names": {"left": "other"},
    "evaluate.datadream.domain": "other",
    "evaluate.datadream.views": ["horizontal_flip"],
    "evaluate.datadream.student.network": "convnet2_w4",
    "evaluate.discl.network": "convnet2_w4",
    "evaluate.discl.arms": ["ce"],
    "evaluate.discl.levels": [50],
    "evaluate.discl.strategies": ["random"],
    "evaluate.discl.priors": ["real"],
    "evaluate.discl.strong": ["horizontal_flip"],
    "evaluate.discl.min_text_cosine": [-1.0],
}
#: Parameters that act only beside others, and these.
BESIDE: Mapping[str, Sequence[str]] = {
    "evaluate.distilled.fixed": ["evaluate.distilled.arms=[distilled_fixed]"],
    "coreset.rded.factor": ["coreset.ipc=1"],
    "coreset.tiles": ["coreset.methods=[random_tiles]", "coreset.ipc=1"],
    "cudd.slots_per_unit": ["cudd.curricula=[2]"],
    "cudd.curriculum.defects": ["cudd.recover.mode=reference"],
    "d3hr.select.components": ["d3hr.select.class_model=mixture"],
    "d3hr.select.candidates": ["d3hr.select.group=best_of"],
    "split.test": ["split.strategy=random"],
    "discl.hard.rule": ["discl.hard.share=0.5"],
    **{
        f"discl.hard.{name}": ["discl.hard.rule=quality", "discl.hard.share=0.5"]
        for name in ("measure", "folds", "network", "training")
    },
    "generator.folder": ["generator.source=embedded", "generator.train.scenes=null"],
    "generator.model": [
        "generator.source=model",
        "generator.train.scenes=null",
        "generator.model.OTHER=models/OTHER",
    ],
    "evaluate.datadream.shots": ["evaluate.datadream.arms=[real]"],
    "evaluate.datadream.loft_shots": ["evaluate.datadream.variants=[loft]"],
}
#: Parameters that need what these jobs do not have: records with equal bytes, more than 64 KiB, sets of unequal size,
#: images that may be mixed, labels of views that can be stored, a sum that another parameter has to make, another data folder.
SILENT = {
    "ingest.duplicates",
    "ingest.conflicts",
    "ingest.shard_bytes",
    "cudd.ipc",
    "discl.hard.file",
    "discl.prompts.prefix",
    "relabel.sources",
    "evaluate.distilled.sources",
    "evaluate.distilled.controls",
    "evaluate.distilled.budget",
    "relabel.views.siamese",
    "evaluate.distilled.fixed.views.mix",
    "evaluate.discl.own_generator",
}


def leaves(model: Any, path: str, planned: bool = False) -> Iterator[tuple[str, Any, bool, bool]]:
    """(dotted path, value, whether it acts through the plan, whether it decides no byte) of every parameter below a section."""
    if isinstance(model, BaseModel):
        for name in type(model).model_fields:
            effect = effect_of(type(model), name)
            if effect is SPEED_ONLY:
                yield f"{path}.{name}", getattr(model, name), planned, True
            else:
                yield from leaves(getattr(model, name), f"{path}.{name}", planned or effect is not None)
    elif is_dataclass(model):
        for field in fields(model):
            yield from leaves(getattr(model, field.name), f"{path}.{field.name}", planned)
    elif isinstance(model, dict) and all(isinstance(value, BaseModel) for value in model.values()) and model:
        for name, value in model.items():
            yield from leaves(value, f"{path}.{name}", planned)
    else:
        yield path, model, planned, False


def others(path: str, value: Any) -> list[Any]:
    """Values of a parameter that may be valid and are not the one it has."""
    if path in OTHERS:
        return [OTHERS[path]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2, value - 1, 2 * value, value * 1.5, value + 0.25, value - 0.25, value + 0.01]
    if isinstance(value, tuple) and value:
        return [[*value[:-1], value[-1] / 2], *([value[0] + more, *value[1:]] for more in (1, -1, 0.1))]
    return ["other", 1, 8, 0.5, [8, 8], [0.1, 0.9], [1, 2, 3], {}]


def changed(stage: str, path: str, value: Any, besides: Sequence[str]) -> tuple[list[Job[Any]], str]:
    """The jobs of a stage with another value of a parameter, of those that are valid the first; else why none is."""
    untried, why = others(path, value), "no other value is known"
    while untried:
        other = untried.pop(0)
        if other == (list(value) if isinstance(value, tuple) else value):
            continue
        try:
            return make_jobs(stage, "data.yaml", [*besides, f"{path}={json.dumps(other)}"]), ""
        except UserError as error:
            why = str(error)
            if other == "other":  # what may be chosen from is in the sentence
                named = [line for line in why.split("\n") if path in line]
                untried = [*re.findall(r"'(\w+)'", named[0].partition("(got")[0] if named else ""), *untried]
    return [], why


def beside(path: str) -> list[str]:
    section, _, last = path.rpartition(".")
    if section.endswith(".image") and last in ("resize", "size", "upscale", "interpolation", "pad_value"):
        return [f"{section}.resize=pad", f"{section}.size=16"]
    found = next((words for start, words in BESIDE.items() if f"{path}.".startswith(f"{start}.")), [])
    return [words.replace("OTHER", "clip" if last == "text" else "text") for words in found]


def told(jobs: Sequence[Job[Any]]) -> set[Any]:
    """What tells the plans of jobs from others: identities of units, digests of all that a plan says, or why there is none."""
    found: set[Any] = set()
    for job in jobs:
        try:
            prepared = prepare(get_stage(job.stage), job)
            found |= {(job.name, prepared.digest), *prepared.identities.values()}
        except UserError as error:
            found.add((str(error),))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_is_part_of_some_unit_unless_it_says_otherwise(
    stage: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    section = load_sections(read_params("data.yaml"), section_models(), "data.yaml")[stage]
    known: dict[tuple[str, ...], set[Any]] = {}
    wrong = []
    for path, value, planned, silent in leaves(section, stage):
        if path in SILENT:
            continue
        besides = beside(path)
        jobs, why = changed(stage, path, value, besides)
        if not jobs:
            wrong += [] if "would be ignored" in why else [f"{path}: {why}"]
            continue
        same = make_jobs(stage, "data.yaml", besides)
        before, after = (get_stage(stage).identity_params(one[0]) for one in (same, jobs))
        if not planned and not silent:
            wrong += [] if before != after else [f"{path} is in no unit"]
            continue
        wrong += [] if before == after else [f"{path} is declared to be in no unit and is"]
        if tuple(besides) not in known:
            known[tuple(besides)] = told(same)
            assert not [one for one in known[tuple(besides)] if " " in str(one[0])], (
                "the jobs can be planned as they are"
            )
        if (told(jobs) == known[tuple(besides)]) != silent:
            wrong.append(f"{path}: another value {'changes' if silent else 'does not change'} the plan")
    assert wrong == []


def test_no_stage_says_by_hand_what_its_units_are_made_of() -> None:
    assert [name for name in STAGES if type(get_stage(name)).identity_params is not Stage.identity_params] == []
