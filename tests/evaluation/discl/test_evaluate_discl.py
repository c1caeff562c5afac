"""`evaluate@discl`: which units there are and what decides them, from a long tail to its table, kills, and what cannot be done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.evaluation.discl.arms import ARMS
from pipelines.evaluation.discl.evaluation import candidates_of, recipe_of
from pipelines.evaluation.discl.images import TailImages
from pipelines.evaluation.discl.params import DisclParams
from pipelines.evaluation.discl.student import Candidate, Student
from pipelines.evaluation.discl.worker import DisclStudents
from pipelines.runtime import checkpoints
from pipelines.runtime.execute import prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.ledger import all_markers
from pipelines.runtime.serial import run_unit
from pipelines.stages import get_stage
from pipelines.storage import Storage
from tests.contract.folders import tree
from tests.evaluation.discl.long_tail import evaluation, everything, write_generator, write_spectra

TESTED = "evaluate.discl.arms=[ce, bs, ce_discl, bs_discl, crt, logit_adjustment, strong_augmentation, separate_norm, full_real]"

SEVERAL = "evaluate.discl.priors=[real, shown]"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that tests copy, or look at."""
    return everything(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def data(ready: Path, tmp_path: Path) -> Path:
    return copied(ready, tmp_path)


def copied(ready: Path, folder: Path) -> Path:
    shutil.copytree(ready, folder / "data")
    shutil.copy(ready.parent / "params.yaml", folder)
    return folder / "data"


@pytest.fixture(scope="module")
def measured(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which it has run, with every kind of training and several candidates."""
    data = copied(ready, tmp_path_factory.mktemp("tail"))
    run_stage(evaluation(data, TESTED, SEVERAL), "serial", debug=True)
    return data


def identities(data: Path, *overrides: str) -> dict[str, str]:
    return prepare(get_stage("evaluate"), evaluation(data, *overrides)).identities


def changed(data: Path, before: dict[str, str], *overrides: str) -> set[str]:
    """The arms of the units that would run again."""
    after = identities(data, *overrides)
    return {name.partition("-")[0] for name in after if before.get(name) != after[name]}


def students(data: Path) -> dict[str, Student]:
    markers = all_markers(Storage(data / "evaluate/discl"))
    return {marker.name: Student.read(marker.summary) for marker in markers}


# What decides a unit


def test_there_is_a_student_for_each_arm_and_seed_and_more_of_either_leave_the_others_alone(data: Path) -> None:
    before = identities(data)
    assert set(before) == {
        f"{arm}-seed{seed}" for arm in ("ce", "bs", "ce_discl", "bs_discl", "full_real") for seed in (0, 1)
    }
    assert before.items() <= identities(data, TESTED, "evaluate.discl.seeds=3").items()


def test_other_images_run_only_who_saw_them(data: Path) -> None:
    before = identities(data)
    write_spectra(data, changed=True)
    assert changed(data, before) == {"ce_discl", "bs_discl"}


def test_an_option_runs_only_the_arms_that_it_is_of(data: Path) -> None:
    before = identities(data, TESTED)
    for override, arms in {
        "retrain=0.5": {"crt"},
        "strong=[horizontal_flip]": {"strong_augmentation"},
        "tau=[1]": {"logit_adjustment"},
        "priors=[real]": {"bs_discl"},
        "curriculum=0.5": {"ce_discl", "bs_discl", "separate_norm"},
        "levels=[50]": {"ce_discl", "bs_discl", "separate_norm"},
        "training.learning_rate=0.1": {name.partition("-")[0] for name in before},
    }.items():
        assert changed(data, before, TESTED, f"evaluate.discl.{override}") == arms, override


def test_candidates_are_those_of_the_options_that_an_arm_has() -> None:
    often = DisclParams().training
    params = DisclParams(
        strategies=("diverse_to_specific", "random"),
        min_text_cosine=(None, 0.3),
        priors=("real", "shown"),
        tau=(0.5, 1),
    )
    assert [len(candidates_of(arm, params)) for arm in ("ce", "bs", "ce_discl", "bs_discl")] == [1, 1, 4, 8]
    assert candidates_of("logit_adjustment", params) == (Candidate(tau=0.5), Candidate(tau=1))
    assert candidates_of("ce_text_only", params) == (Candidate(), Candidate(min_text_cosine=0.3))
    assert {one.strategy for one in candidates_of("no_curriculum", params)} == {"diverse_to_specific"}
    assert recipe_of("ce", DisclParams(training=replace(often, evaluate_every=9))) == recipe_of("ce", DisclParams())


# What a student came to


def test_all_students_take_the_same_steps_and_see_as_many_images(measured: Path) -> None:
    every = students(measured)
    assert {student.steps for student in every.values()} == {
        4 * 4
    }  # 27 images an epoch: 18 others and a third of it all
    assert {student.real + sum(student.levels.values()) for student in every.values()} == {4 * 27}
    assert {name.partition("-")[0] for name, student in every.items() if student.levels} == {
        "ce_discl",
        "bs_discl",
        "separate_norm",
    }
    assert every["ce_discl-seed0"].levels == {"0": 14, "50": 7}  # of 7 an epoch; the fourth is on real images


def test_the_best_candidate_on_validation_is_tested_and_no_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    right = DisclStudents._right

    def noted(self: DisclStudents, model: Any, part: str) -> Any:
        looked_at.append(part)
        answers, of = right(self, model, part)
        return (of if part == "val" and looked_at.count("val") == 2 else 0 * of if part == "val" else answers), of

    monkeypatch.setattr(DisclStudents, "_right", noted)
    stage, job = get_stage("evaluate"), evaluation(data, TESTED, "evaluate.discl.tau=[0.5, 1, 2]")
    prepared = prepare(stage, job)
    for name in ("logit_adjustment-seed0", "ce-seed0"):
        looked_at.clear()
        unit = next(unit for unit in prepared.plan.units if unit.name == name)
        student = Student.read(run_unit(stage, job, stage.open(job), unit, prepared.identities[name]).summary)
        assert looked_at == ["val"] * len(student.candidates) + ["test"]
        assert student.chosen == student.candidates[min(1, len(student.candidates) - 1)]


def test_arms_of_a_seed_begin_alike_and_adjusting_afterwards_trains_as_cross_entropy(
    measured: Path, data: Path
) -> None:
    """Of logit adjustment the network is that of cross-entropy, so with almost no tau its answers are the same."""
    every = students(measured)
    job = evaluation(data, TESTED, "evaluate.discl.tau=[0.000001]")
    stage = get_stage("evaluate")
    prepared = prepare(stage, job)
    unit = next(unit for unit in prepared.plan.units if unit.name == "logit_adjustment-seed1")
    worker = stage.open(job)
    summary = run_unit(stage, job, worker, unit, "0" * 32).summary
    assert tuple(summary["right"]) == every["ce-seed1"].right


def test_the_table_has_every_group_and_says_who_gains(measured: Path) -> None:
    results = json.loads((measured / "evaluate/discl/results.json").read_text())
    metrics = json.loads((measured / "evaluate/discl/metrics.json").read_text())
    assert results["groups"] == ["many", "medium", "few"]
    every = students(measured)
    for arm, form in results["arms"].items():
        of_arm = [student for student in every.values() if student.arm == arm]
        few = [student.right[2] / student.of[2] for student in of_arm]
        assert form["mean"]["few"] == pytest.approx(sum(few) / 2)
        assert form["mean"]["all"] == pytest.approx(sum(sum(student.right) for student in of_arm) / 2 / 12)
        assert bool(form["outside_data"]) == (arm in ("ce_discl", "bs_discl", "separate_norm"))
        if ARMS[arm].baseline is not None:
            gain = 100 * (form["mean"]["few"] - results["arms"][ARMS[arm].baseline]["mean"]["few"])
            assert metrics["gain"][arm]["few"] == pytest.approx(gain)
    assert {(one["question"], one["arm"], one["against"]) for one in results["comparisons"]} >= {
        ("few", "bs_discl", "bs"),
        ("all", "ce_discl", "ce"),
        ("controls", "ce_discl", "crt"),
    }
    assert "embedded" in results["arms"]["ce_discl"]["outside_data"]
    assert "best on validation" in results["protocol"]["selection"]


# Kills


def test_a_run_that_was_killed_in_any_training_ends_with_the_same_bytes(
    measured: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    stage, job = get_stage("evaluate"), evaluation(data, TESTED, SEVERAL)
    prepared = prepare(stage, job)
    begin(stage, job, prepared)
    for name, epochs in (("crt-seed0", 4), ("bs_discl-seed1", 6), ("separate_norm-seed0", 3)):
        ticks: list[float] = []

        def interrupt(
            done: float, _total: float, _note: str = "", ticks: list[float] = ticks, epochs: int = epochs
        ) -> None:
            ticks.append(done)
            if len(ticks) == epochs:
                raise KeyboardInterrupt

        unit = next(unit for unit in prepared.plan.units if unit.name == name)
        with pytest.raises(KeyboardInterrupt):
            run_unit(stage, job, stage.open(job), unit, prepared.identities[name], interrupt)
    run_stage(job, "serial", debug=True)
    assert tree(data / "evaluate") == tree(measured / "evaluate")


# What cannot be done


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("arms=[ce, bs_discl]", "arms has bs_discl and not bs, which it is compared with; add bs"),
        ("arms=[ce, own_generator]", "go together"),
        (
            "training={loss: balanced_softmax}",
            "evaluate.discl.training.loss would be ignored|training.loss would be ignored",
        ),
        ("profile=short", "asks for the profile 'short', split made tail"),
        ("levels=[30]", r"levels names 30, and discl left images of none|no image of a class with few"),
        ("levels=[0, 30]", r"levels names 30, and discl left images of 0"),
        ("min_text_cosine=[0.9]", r"no image of a class with few images with a text_cosine of 0.9 or more"),
        ("network=resnt18", "evaluate.discl.network: no network"),
        ("training.epochs=1", "1 curriculum_epochs are fewer than the 3 levels"),
        ("strong=[no_such]", "no_such"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(data: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run_stage(evaluation(data, f"evaluate.discl.{override}"), "serial", debug=True)
    assert not (data / "evaluate").exists()


def test_images_without_order_are_those_of_an_order(data: Path) -> None:
    arms = ("evaluate.discl.arms=[ce, no_curriculum]", "evaluate.discl.strategies=[adaptive]")
    with pytest.raises(UserError, match="name one before adaptive"):
        evaluation(data, *arms)


def test_text_only_needs_images_of_text_only(data: Path) -> None:
    write_spectra(data, {50: 3})
    with pytest.raises(UserError, match="ce_text_only takes images of guidance level 0, discl left those of 50; add 0"):
        identities(data, "evaluate.discl.arms=[ce, ce_text_only]")


def test_images_of_another_profile_are_refused(data: Path) -> None:
    write_spectra(data, profile="other")
    with pytest.raises(UserError, match=r"has images of the profile 'other', and evaluate.discl.profile is 'tail'"):
        identities(data)


def test_a_score_may_admit_what_discl_did_not(data: Path) -> None:
    """The last image of each level was dropped; all have scores of 0.1 times their number."""
    job = evaluation(data)
    tail = TailImages(replace(job, params=job.params.discl))
    assert len(tail.synthetic("ce_discl").images) == 8
    assert len(tail.synthetic("ce_discl", 0.25).images) == 4
    assert {image.label for image in tail.synthetic("ce_discl", 0.25).images} == {2}


def test_a_generator_of_the_long_tail_alone_is_another_data_folder(data: Path, tmp_path: Path) -> None:
    arms = (
        "evaluate.discl.arms=[ce, ce_discl, own_generator]",
        f"evaluate.discl.own_generator={tmp_path / 'own/data'}",
    )
    with pytest.raises(
        UserError, match="has no finished split; make there a generator of the long tail's images alone"
    ):
        identities(data, *arms)
    (tmp_path / "own").mkdir()
    own = copied(data, tmp_path / "own")
    with pytest.raises(UserError, match="its generator is embedded, and the arm is about one that was trained"):
        identities(data, *arms)
    write_generator(own, "train")
    with pytest.raises(UserError, match=r"learnt from \d+ images that are not in the profile 'tail'"):
        identities(data, *arms)
