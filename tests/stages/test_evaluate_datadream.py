"""DataDream's control table: which images an arm sees, who is compared with whom, and what the numbers allow to say."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from distill.config import TrainConfig
from pipelines.artifacts.datasets import open_part
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.evaluation.datadream.classifier import Arm, Classifier, Training
from pipelines.evaluation.datadream.table import control_table, sentence
from pipelines.evaluation.datadream.worker import Resized
from pipelines.evaluation.images import ArmImages
from pipelines.evaluation.students import at_size, over_steps, oversample_real
from pipelines.evaluation.verdicts import compare
from pipelines.loaders.arrays import ImageArrays, load_images
from pipelines.runtime import checkpoints
from pipelines.runtime.execute import prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.serial import run_unit
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from pipelines.storage import pretty_json
from synth.datadream.accuracy import center_resize
from synth.datadream.config import FitConfig
from tests.contract.folders import tree
from tests.sealing import seal
from tests.stages.dreams import SETS, evaluation, everything, manifest, write_dreams

PARTS = ("val", "test")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return everything(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which `evaluate` has run, with a student from scratch beside CLIP and two seeds."""
    data = everything(tmp_path_factory.mktemp("dreams"))
    run_stage(evaluation(data, *STUDENT), "serial", debug=True)
    return data


STUDENT = (
    "evaluate.datadream.student={network: convnet2_w8, training: {epochs: 2, batch_size: 8}}",
    "evaluate.datadream.seeds=2",
    "evaluate.datadream.shots=[2]",
    "evaluate.datadream.arms=[zero_shot_clip, real, synthetic, pooled, full]",
)


def planned(data: Path, *overrides: str) -> dict[str, str]:
    """Unit names and their identities."""
    return prepare(get_stage("evaluate"), evaluation(data, *overrides)).identities


def others(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Arm and seed of the units that would run again; units of both are the same."""
    assert set(before) == set(after)
    return {name.removesuffix("-clip") for name in after if before[name] != after[name]}


# What an arm sees


def test_there_is_a_unit_for_each_arm_variant_number_of_shots_and_seed(data: Path) -> None:
    names = [name.removesuffix("-clip") for name in planned(data)]
    assert len(names) == len(set(names)) == 1 + 2 * 3 + (3 + 2 * 3) + 2 * 2 * 3
    assert [name for name in names if "zero_shot_clip" in name] == ["zero_shot_clip-seed0"]
    # Zero-shot images alone know no number of shots: one training serves all.
    assert [name for name in names if name.startswith("synthetic-zero_shot")] == [
        f"synthetic-zero_shot-seed{seed}" for seed in range(3)
    ]
    assert {"real-shots02-seed2", "synthetic-cls-shots04-seed1", "pooled-zero_shot-shots04-seed0"} <= set(names)


def test_loft_can_be_evaluated_at_fewer_shots_than_the_others(data: Path) -> None:
    write_dreams(data, "loft", {(2, 0): 3, (2, 1): 3})
    asked = ["evaluate.datadream.variants=[cls, loft]", "evaluate.datadream.loft_shots=[2]"]
    names = [name for name in planned(data, *asked) if "loft" in name]
    assert len(names) == 2 * 3
    assert all("shots02" in name for name in names)


def test_seeds_take_the_few_shot_sets_in_turn(data: Path) -> None:
    choice, few = ArmImages(evaluation(data)), manifest(data)["seeds"]
    for seed, stands_for in ((0, "0"), (1, "1"), (2, "0"), (7, "1")):
        keys = few[stands_for]["0"][:2] + few[stands_for]["1"][:2]
        assert list(choice.reals(2, seed).keys) == keys
        assert choice.reals(2, seed).labels == (0, 0, 1, 1)
        assert choice.few_shot_seed(seed) == int(stands_for)
    assert choice.reals(4, 1).keys[:2] == choice.reals(2, 1).keys[:2]


def test_synthetic_images_are_those_made_for_the_same_reals_in_order_of_their_ordinal(data: Path) -> None:
    choice = ArmImages(evaluation(data))
    for seed, few in ((0, 0), (1, 1), (2, 0)):
        kept = [f"datadream-c{c:05d}-s{40_000 + 1000 * few + o:05d}" for c in (0, 1) for o in (0, 2, 3, 4, 5, 6)]
        assert list(choice.synthetic("cls", 4, seed, None).keys) == kept
    for shots, seed in ((2, 0), (4, 1), (4, 2)):
        found = choice.synthetic("zero_shot", shots, seed, None)
        assert list(found.keys) == [f"datadream-c{c:05d}-s{o:05d}" for c in (0, 1) for o in (0, 2, 3, 4, 5)]
    few_of_each = choice.synthetic("cls", 2, 0, 2)
    assert few_of_each.keys == tuple(f"datadream-c{c:05d}-s{20_000 + o:05d}" for c in (0, 1) for o in (0, 2))
    assert Counter(few_of_each.labels) == {0: 2, 1: 2}
    assert few_of_each.fewest(2) == 2


def test_other_few_shot_images_of_a_seed_run_only_who_saw_them(data: Path) -> None:
    before, form = planned(data), manifest(data)
    form["seeds"]["1"]["0"].reverse()
    (data / "split/few_shot.json").write_bytes(pretty_json(form))
    with pytest.raises(UserError, match=r"few_shot.json is not the file that split left.*limbeck run split --verify"):
        planned(data)
    seal(data / "split", "split")
    # Their images are the generator's business: what it makes of others has other pixels.
    assert others(before, planned(data)) == {
        f"{arm}-shots{shots:02d}-seed1" for arm in ("real", "pooled-cls", "pooled-zero_shot") for shots in (2, 4)
    }


def test_other_images_of_a_variant_run_only_who_saw_them(data: Path) -> None:
    before = planned(data)
    write_dreams(data, "cls", SETS["cls"], changed=(4, 1))
    assert others(before, planned(data)) == {"synthetic-cls-shots04-seed1", "pooled-cls-shots04-seed1"}
    write_dreams(data, "cls", {**SETS["cls"], (16, 0): 3})
    assert others(before, planned(data)) == set()


def test_seeds_arms_and_shots_that_are_added_leave_the_others_alone(data: Path) -> None:
    before = planned(data, "evaluate.datadream.seeds=2", "evaluate.datadream.shots=[2]")
    assert before.items() <= planned(data).items()
    assert (
        before.items()
        <= planned(data, "evaluate.datadream.arms=[zero_shot_clip, real, synthetic, pooled, full]").items()
    )


def test_prompts_are_those_that_the_images_were_made_with_unless_told_otherwise(data: Path) -> None:
    def prompts(*overrides: str) -> list[str]:
        return prepare(get_stage("evaluate"), evaluation(data, *overrides)).plan.units[0].payload["recipe"]["prompts"]

    assert prompts() == ["a grey photo of a left side", "a grey photo of a right"]
    assert prompts("evaluate.datadream.domain=''", "evaluate.datadream.names={right: other}") == [
        "a photo of a left",
        "a photo of a other",
    ]


def test_real_and_synthetic_images_are_pooled_with_lambda_selected_on_val_and_tested_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import synth.datadream.accuracy as accuracy_module
    import synth.datadream.fit as fit_module
    from synth.datadream.selection import Fitted

    calls: list[dict[str, Any]] = []
    tested: list[set[str]] = []

    def fit(classifier: Any, real: Any, synthetic: Any, validation: Any, config: FitConfig, **how: Any) -> Any:
        sides = {"real": real, "synthetic": synthetic, "val": validation}
        keys = {name: None if part is None else set(part.keys) for name, part in sides.items()}
        sizes = {tuple(part.images([0]).shape[2:]) for part in sides.values() if part is not None}
        calls.append({**keys, "sizes": sizes, "config": config, "seed": how["run_seed"], "init": classifier.state()})
        return Fitted([], 1, 0.5)

    def judge(classifier: Any, examples: Any, batch_size: int = 512) -> Any:
        tested.append(set(examples.keys))
        return accuracy_module.ClassifierAccuracy(0.75, (0.5, math.nan), 1.0, len(examples.keys))

    monkeypatch.setattr(fit_module, "fit", fit)
    monkeypatch.setattr(accuracy_module, "classifier_accuracy", judge)
    stage, job = get_stage("evaluate"), evaluation(data)
    prepared, worker = prepare(stage, job), stage.open(job)
    for name in ("pooled-cls-shots02-seed1", "real-shots02-seed1", "synthetic-cls-shots02-seed1", "real-shots02-seed2"):
        unit = next(unit for unit in prepared.plan.units if unit.name == f"{name}-clip")
        marker = run_unit(stage, job, worker, unit, prepared.identities[unit.name])
    pooled, real, synthetic, other = calls
    few = manifest(data)["seeds"]["1"]
    assert pooled["real"] == real["real"] == set(few["0"][:2] + few["1"][:2])
    assert pooled["synthetic"] == synthetic["synthetic"]
    assert len(pooled["synthetic"]) == 12
    assert (real["synthetic"], synthetic["real"]) == (None, None)
    assert pooled["config"].real_weight == 0.8
    assert pooled["sizes"] == {(16, 16)}  # 24 pixels were generated
    # Arms of a seed differ in their images only; another seed has another start and order.
    assert pooled["seed"] == real["seed"] == synthetic["seed"] != other["seed"]
    assert all((pooled["init"][name] == real["init"][name]).all() for name in pooled["init"])
    assert any((real["init"][name] != other["init"][name]).any() for name in real["init"])
    held_out = {part: set(Dataset.open(str(data / "split" / part)).rows(["key"])["key"].to_pylist()) for part in PARTS}
    assert all(call["val"] == held_out["val"] for call in calls)
    assert tested == [held_out["test"]] * 4
    training = Classifier.of(marker.summary).training
    assert (training.test, training.val, training.per_class) == (0.75, 0.5, (0.5, None))


def test_equal_steps_for_every_arm_are_as_many_epochs_as_come_nearest() -> None:
    config = FitConfig(epochs=50, warmup_epochs=3, evaluate_every=1)
    assert over_steps(config, None, 3) is config
    few, many = over_steps(config, 1000, 3), over_steps(config, 1000, 40)
    assert (few.epochs, few.warmup_epochs, few.evaluate_every) == (333, 20, 7)
    assert (many.epochs, many.warmup_epochs, many.evaluate_every) == (25, 2, 1)
    assert (over_steps(config, 10, 40).epochs, over_steps(config, 10, 40).warmup_epochs) == (1, 0)
    assert over_steps(TrainConfig(epochs=30), 300, 5).epochs == 60


def arrays(count: int, side: int = 4, start: int = 0) -> ImageArrays:
    pixels = (
        np.full((count, 3, side, side), 7, np.uint8)
        + np.arange(start, start + count, dtype=np.uint8)[:, None, None, None]
    )
    return ImageArrays(pixels, np.arange(count) % 2, [f"{start + n}" for n in range(count)])


def test_a_network_from_scratch_sees_each_real_image_so_often_that_both_kinds_weigh_alike() -> None:
    keys = Counter(oversample_real(arrays(4), arrays(11, start=100)).keys)
    assert [keys[str(n)] for n in range(4)] == [2] * 4  # floor(11 / 4)
    assert all(keys[str(100 + n)] == 1 for n in range(11))
    assert Counter(oversample_real(arrays(4), arrays(2, start=100)).keys)["0"] == 1
    assert oversample_real(arrays(4), None).keys == list("0123")
    both = oversample_real(arrays(2), arrays(4, start=100))
    assert [int(image[0, 0, 0]) for image in both.images] == [107, 108, 109, 110, 7, 8, 7, 8]


def test_images_are_brought_to_the_size_of_the_network() -> None:
    assert at_size(arrays(3), 4).images is not None
    assert at_size(arrays(3, side=8), 4).images.shape == (3, 3, 4, 4)
    assert (at_size(arrays(3, side=8), 4).images[1] == 8).all()
    shown = Resized(arrays(3, side=8), (16, 16)).images([1])
    assert shown.shape == (1, 3, 16, 16)
    assert shown.mean() == pytest.approx(8 / 255)


# What the numbers say


def student(images: str, seed: int, test: float, variant: str = "", shots: int = 4, **more: int) -> Classifier:
    training = Training(10, 1, 1, test + 0.1, test, (test, None))
    return Classifier(Arm(images, variant), "clip", shots, seed, seed if shots else None, training, **more)


def test_clip_takes_images_of_any_size_as_it_would_resize_them_itself(tmp_path: Path) -> None:
    data = everything(tmp_path, sizes=(16, 20, 31))
    job = evaluation(data, "evaluate.datadream.arms=[real, pooled]", "evaluate.datadream.shots=[2]")
    worker = get_stage("evaluate").open(job).kept
    test = worker._part("test", "clip")
    assert test.images.shape == (12, 3, 16, 16)
    given = load_images(open_part(job, "split", "test"))
    assert {image.shape[1] for image in given} == {16, 20, 31}
    for image, read in zip(given, test.images, strict=True):
        asked = center_resize(torch.from_numpy(image)[None].float() / 255, (16, 16))[0] * 255
        assert float((asked - torch.from_numpy(read)).abs().max()) <= 0.5
    run_stage(job, "serial", debug=True)
    table = json.loads((data / "evaluate/datadream/results.json").read_text())["shots_2"]["clip"]
    assert table["pooled_cls"]["images"] == {"real": 4, "synthetic": 12}
    with pytest.raises(UserError, match=r"holds images of 3 sizes.*ingest them at one"):
        worker._part("test", "student")


def test_views_can_be_any_policy_that_leaves_images_at_the_classifiers_size(data: Path) -> None:
    small = ["evaluate.datadream.arms=[real]", "evaluate.datadream.shots=[2]", "evaluate.datadream.seeds=1"]
    before = planned(data, *small)
    flips = "evaluate.datadream.views=[horizontal_flip]"
    assert others(before, planned(data, *small, flips)) == {"real-shots02-seed0"}
    run_stage(evaluation(data, *small, flips), "serial", debug=True)
    protocol = json.loads((data / "evaluate/datadream/results.json").read_text())["protocol"]
    assert protocol["views"] == ["horizontal_flip"]
    done = tree(data / "evaluate")
    crop = "evaluate.datadream.views=[{resized_crop: {size: 8}}]"
    with pytest.raises(UserError, match=r"views are \(8, 8\), the classifier takes \(16, 16\): crop to that size"):
        run_stage(evaluation(data, *small, crop), "serial", debug=True)
    assert tree(data / "evaluate") == done  # before any work
    with pytest.raises(UserError, match=r"evaluate\.datadream\.views"):
        evaluation(data, "evaluate.datadream.views=[horizontal_flap]")


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    found = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85})
    # Differences 3, 4 and 5 points: mean 4, deviation 1, error 1 / sqrt(3).
    assert found["gap"] == pytest.approx(4)
    assert found["standard_error"] == pytest.approx(1 / math.sqrt(3))
    assert found["errors"] == pytest.approx(4 * math.sqrt(3))
    assert (found["outcome"], found["seeds"]) == ("win", 3)
    assert compare({0: 0.77, 1: 0.66, 2: 0.85}, {0: 0.80, 1: 0.70, 2: 0.90})["outcome"] == "loss"
    level = compare({0: 0.80, 1: 0.70, 2: 0.80}, {0: 0.78, 1: 0.72, 2: 0.78})
    assert (level["outcome"], round(level["errors"], 2)) == ("level", 0.5)  # 2, -2, 2: 2/3 over 2.309/sqrt(3)


def test_few_seeds_have_to_differ_by_more_standard_errors() -> None:
    """Student's t at 95 %: 4.30 for three differences, 12.7 for two, 2.78 for five."""
    three = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.78, 1: 0.66, 2: 0.84})  # 2, 4 and 6 points: 3.46 errors
    assert (three["outcome"], round(three["errors"], 2), round(three["needed"], 3)) == ("level", 3.46, 4.303)
    five = compare(dict(enumerate((2, 4, 6, 3, 5))), dict.fromkeys(range(5), 0.0))
    assert (five["outcome"], round(five["needed"], 3)) == ("win", 2.776)
    two = compare({0: 0.80, 1: 0.70}, {0: 0.78, 1: 0.66})  # 3 errors
    assert (two["outcome"], round(two["needed"], 3)) == ("level", 12.706)
    many = compare(dict.fromkeys(range(99), 0.5), dict.fromkeys(range(99), 0.4))
    assert (many["outcome"], round(many["needed"], 3)) == ("win", 1.984)


def test_one_seed_proves_nothing_and_equal_differences_have_no_error() -> None:
    assert compare({0: 0.9}, {0: 0.5})["outcome"] == "unproved"
    assert compare({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})["outcome"] == "win"
    assert compare({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5})["outcome"] == "level"


def test_sentences_follow_from_the_numbers() -> None:
    told = {"shots": 4, "classifier": "clip", "arm": "pooled_cls", "variant": "cls", "against": "real"}
    win = compare({0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85})
    assert sentence(told | win) == (
        "At 4 shots (clip) real and cls images beat real images only by 4.0 points, 6.9 standard errors over 3 paired seeds."
    )
    loss = compare({0: 0.77, 1: 0.66, 2: 0.85}, {0: 0.80, 1: 0.70, 2: 0.90})
    assert "lose to real and zero-shot images by 4.0 points" in sentence(told | loss | {"against": "pooled_zero_shot"})
    level = compare({0: 0.80, 1: 0.70, 2: 0.80}, {0: 0.78, 1: 0.72, 2: 0.78})
    assert (
        "0.7 points ahead of real images only, only 0.5 standard errors over 3 paired seeds where 4.3 would tell: not told apart"
        in sentence(told | level)
    )
    one = sentence(told | compare({0: 0.4}, {0: 0.5}))
    assert one.endswith("are 10.0 points behind real images only, with one seed: chance is not ruled out.")


def test_every_pooled_variant_is_compared_with_real_only_and_with_zero_shot() -> None:
    rows = [
        one
        for seed in range(3)
        for one in (
            student("real", seed, 0.70 + 0.01 * seed, real=8, real_bytes=800),
            student("synthetic", seed, 0.5, "zero_shot", shots=0, synthetic=10, synthetic_bytes=500),
            student("pooled", seed, 0.72, "zero_shot", real=8, synthetic=10, real_bytes=800, synthetic_bytes=500),
            student("pooled", seed, 0.80, "cls", real=8, synthetic=12 + seed, real_bytes=800, synthetic_bytes=600),
        )
    ]
    rows.append(student("zero_shot_clip", 0, 0.4, shots=0))
    table = control_table(rows, [4], {"cls": {"4-0": 10, "4-1": 20, "4-2": 30}}, classes=2)
    assert [(win["arm"], win["against"], win["outcome"]) for win in table["wins"]] == [
        ("pooled_zero_shot", "real", "level"),  # 2, 1 and 0 points: 1 over 0.58
        ("pooled_cls", "real", "win"),
        ("pooled_cls", "pooled_zero_shot", "win"),
    ]
    arms = table["shots_4"]["clip"]
    assert set(arms) == {"real", "synthetic_zero_shot", "pooled_zero_shot", "pooled_cls"}
    assert table["reference"]["clip"]["zero_shot_clip"]["mean"] == 0.4
    real, pooled = arms["real"], arms["pooled_cls"]
    assert real["mean"] == pytest.approx(0.71)
    assert real["std"] == pytest.approx(0.01)
    assert real["val"] == pytest.approx(0.81)
    assert (real["seeds"], real["few_shot_seeds"]) == (3, [0, 1, 2])
    assert pooled["images"] == {"real": 8, "synthetic": 13}
    assert pooled["per_class"] == [pytest.approx(0.8), None]
    assert pooled["bytes"] == {
        "real_bytes": 800,
        "synthetic_bytes": 600,
        "adapter_bytes": 20,
        "label_bytes": 21,
        "together": 1441,
    }


def test_what_does_not_beat_its_controls_is_told_why() -> None:
    def table(alone: float, both: float) -> Any:
        rows = []
        for seed in range(3):
            rows += [
                student("real", seed, 0.70 + 0.01 * seed, real=8),
                student("synthetic", seed, alone, "cls", synthetic=12),
                student("pooled", seed, 0.71 + 0.01 * seed, "zero_shot", real=8, synthetic=12),
                student("pooled", seed, both + 0.01 * seed, "cls", real=8, synthetic=12),
            ]
        return control_table(rows, [4], {}, classes=2)["why_not"]

    assert table(0.60, 0.80) == []
    assert [one["sentence"] for one in table(0.60, 0.71)] == [
        "No adapted variant beats both controls at 4 shots (clip): on their own its images teach 60.0 % at best (cls), the 8 real ones "
        "71.0 %."
    ]
    assert table(0.75, 0.69)[0]["sentence"].endswith("teach 75.0 % at best (cls), the 8 real ones 71.0 %.")


def test_without_a_control_nothing_is_claimed() -> None:
    table = control_table([student("pooled", 0, 0.8, "cls"), student("real", 0, 0.7, shots=16)], [4, 16], {}, classes=2)
    assert table["wins"] == []


# The stage as a whole


def test_a_job_of_datadream_alone_needs_no_teacher_and_no_distilled_images(finished: Path) -> None:
    dream = json.loads((finished / "evaluate/datadream/results.json").read_text())
    assert set(dream["reference"]["clip"]) == {"zero_shot_clip", "full"}
    assert set(dream["reference"]["student"]) == {"full"}
    assert dream["reference"]["student"]["full"]["images"] == {"real": 24, "synthetic": 0}
    for kind in ("clip", "student"):
        arms = dream["shots_2"][kind]
        assert set(arms) == {"real", "synthetic_zero_shot", "synthetic_cls", "pooled_zero_shot", "pooled_cls"}
        assert arms["pooled_cls"]["images"] == {"real": 4, "synthetic": 12}
        assert arms["pooled_cls"]["bytes"]["adapter_bytes"] == round((200 + 201) / 2)
        assert arms["pooled_zero_shot"]["bytes"]["adapter_bytes"] == 0
        assert all(0 <= arm["mean"] <= 1 and arm["seeds"] == 2 for arm in arms.values())
        assert np.mean(arms["real"]["per_class"]) == pytest.approx(arms["real"]["mean"])
    stored = ArmImages(evaluation(finished))
    assert arms["real"]["bytes"]["real_bytes"] == round(sum(stored.reals(2, seed).size for seed in (0, 1)) / 2) > 400
    assert dream["protocol"]["generator_bytes"]["text"] == 1000
    assert "Only 2 seed(s)" in dream["protocol"]["note"]
    assert len(dream["wins"]) == 2 * 3
    assert not (finished / "evaluate/datadream/curves.csv").exists()


def test_a_second_run_does_nothing_and_the_same_job_elsewhere_gives_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "up to date" in run_stage(evaluation(finished, *STUDENT), "serial")
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    data = everything(tmp_path)
    stage, job = get_stage("evaluate"), evaluation(data, *STUDENT)
    prepared, worker = prepare(stage, job), stage.open(job)
    begin(stage, job, prepared)

    def interrupt(done: float, _total: float, _note: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for kind in ("clip", "student"):
        name = f"pooled-cls-shots02-seed1-{kind}"
        unit = next(unit for unit in prepared.plan.units if unit.name == name)
        with pytest.raises(KeyboardInterrupt):
            run_unit(stage, job, worker, unit, prepared.identities[name], interrupt)
        assert list((data / "evaluate/datadream/.partial").rglob("*.pt"))
    run_stage(job, "serial", debug=True)
    assert tree(data / "evaluate") == tree(finished / "evaluate")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("shots=[8]", "evaluate asks for 8 shots, the manifest has 4; raise split.few_shot"),
        ("variants=[dset]", "run first: limbeck run datadream@dset"),
        ("names={left: Right side, right: right  SIDE}", "classes 'left' and 'right' are the same text to the model"),
        ("variants=[cls, cls]", "variants names something twice"),
        ("student={network: resnt18}", "evaluate.datadream.student.network: no network is called so"),
        ("classifier={real_weight: 2}", "real_weight takes 0 to 1"),
        ("shots=[1]", r"no kept images for 1 shots of few-shot seed 0; it has 2 shots of seed 0, 2 shots of seed 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(data: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run_stage(evaluation(data, f"evaluate.datadream.{override}"), "serial", debug=True)
    assert not (data / "evaluate").exists()


def test_a_job_without_clip_is_told_which_stage_makes_it(data: Path) -> None:
    (data / "generator/stage.json").unlink()
    with pytest.raises(UserError, match="limbeck run generator"):
        planned(data)
