"""`augment`: views whose boxes lie on their pixels, that can be made again from their rows, byte by byte by anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.commands.jobs import make_job
from pipelines.errors import StageStopped, UserError
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.ray_runner import RayRunner
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.shards.sample import Sample
from pipelines.stages.augment.params import ViewSet
from pipelines.stages.augment.stage import Augment
from pipelines.stages.augment.worker import Parent, View, ViewMaker, remake
from tests.contract.folders import assert_same, tree
from tests.stages.viewing import job_of, picture, rows_of, sample, shards_of, view_of, write_split

TURN = [
    {"resized_crop": {"size": [48, 36], "scale": [0.5, 1.0]}},
    {"rotate": {"degrees": [-20, 20]}},
    "horizontal_flip",
]
VIEWS = [*TURN, {"color_jitter": {"brightness": 0.4, "hue": 0.1}}, {"gaussian_blur": {"p": 0.5}}]
EXACT = ["horizontal_flip", "vertical_flip"]
BACKENDS = ["torch", "cv2"]


def run(data: Path, **settings: Any) -> dict[str, Any]:
    return execute(Augment(), job_of(data, **settings), lambda: SerialRunner(debug=True))["facts"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three shards of pictures of two sizes."""
    shards = shards_of(5, 4, 3)
    shards[1].append(sample(40, size=(64, 33)))
    write_split(tmp_path, shards)
    return tmp_path


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_are_a_sound_dataset_that_names_parents_labels_and_draws(data: Path, backend: str) -> None:
    facts = run(data, some={"policy": VIEWS, "views": 3, "backend": backend})
    report = lint(str(data / "augment/some"))
    assert report.ok, report.findings
    parents = {row["key"]: row for row in Dataset.open(str(data / "split/train")).rows().to_pylist()}
    rows = rows_of(data, "some")
    assert len(rows) == 39 == facts["some"]["samples"]
    for row in rows:
        (parent,) = row["parents"]
        view = json.loads(row["params"])["view"]
        assert row["key"] == f"{parent}-a{view:04d}"
        assert (row["label"], row["source"], row["op"]) == (
            parents[parent]["label"],
            parents[parent]["source"],
            "augment",
        )
        assert (row["height"], row["width"]) == (48, 36)
        assert "resized_crop" in json.loads(row["params"])["draws"]
    assert len({row["pixel_sha256"] for row in rows}) == 39
    described = view_of(data, "some", rows[0])[1]
    assert described["caption"] == "a box"
    assert described["parent"] == rows[0]["parents"][0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_view_is_made_again_from_its_row_to_the_bit(data: Path, backend: str) -> None:
    run(data, some={"policy": VIEWS, "views": 2, "backend": backend})
    source = Dataset.open(str(data / "split/train"))
    numbers = {row["key"]: row for row in source.rows(["key", "source", "width", "height"]).to_pylist()}
    for row in rows_of(data, "some"):
        parent = numbers[row["parents"][0]]
        pixels, _ = picture(int(parent["source"].removesuffix(".png")), (parent["height"], parent["width"]))
        again = remake(ViewSet(policy=VIEWS, backend=backend), row, pixels, torch.device("cpu"))
        np.testing.assert_array_equal(again, view_of(data, "some", row)[0])


@pytest.mark.parametrize("policy", [TURN, EXACT, [{"letterbox": {"size": 64}}, "horizontal_flip"]])
def test_annotations_lie_on_the_pixels_of_their_object(data: Path, policy: Any) -> None:
    run(data, some={"policy": policy, "views": 2, "min_visible": 0.2})
    compared = 0
    for row in rows_of(data, "some"):
        pixels, described = view_of(data, "some", row)
        assert (described["width"], described["height"]) == (row["width"], row["height"])
        assert described["file_name"] == f"{row['key']}.png"
        for annotation in described["annotations"]:
            x, y, width, height = annotation["bbox"]
            where = np.argwhere(pixels[:, :, 0] > 100)
            (top, left), (bottom, right) = where.min(0), where.max(0) + 1
            # The hull of a turned box reaches its very corners, where less than half of a pixel is painted.
            np.testing.assert_allclose([x, y, x + width, y + height], [left, top, right, bottom], atol=1.6)
            assert 0 <= x < x + width <= row["width"]
            assert 0 <= y < y + height <= row["height"]
            assert annotation["area"] == pytest.approx(width * height, abs=1e-3)
            assert (annotation["category_id"], annotation["note"]) == (7, "kept")
            assert annotation["image_id"] == described["image_id"]
            compared += 1
    assert compared > 15


def test_ids_of_annotations_and_pictures_stay_unique_over_all_views(data: Path) -> None:
    run(data, some={"policy": EXACT, "views": 3})
    described = [view_of(data, "some", row)[1] for row in rows_of(data, "some")]
    ids = [annotation["id"] for one in described for annotation in one["annotations"]]
    assert len(set(ids)) == len(ids) == 39
    assert min(ids) >= 1
    assert len({one["image_id"] for one in described}) == 39


def test_what_boxes_cannot_carry_is_left_out_and_counted(tmp_path: Path) -> None:
    box = {"id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    given = [
        box | {"segmentation": [[10, 10, 30, 10, 30, 30]]},
        box | {"iscrowd": 1},
        box | {"bbox": [3, 3, 0, 9]},
        box | {"bbox": [60, 0, 10, 10]},
        box | {"bbox": [0, 0, 9, 40], "keypoints": [1, 2, 2]},
    ]
    write_split(tmp_path, [[sample(0, annotations=given)]])
    facts = run(tmp_path, some={"policy": [{"center_crop": {"size": 24}}]})
    (row,) = rows_of(tmp_path, "some")
    (annotation,) = view_of(tmp_path, "some", row)[1]["annotations"]
    assert annotation["bbox"] == [0, 2, 14, 20]
    assert "segmentation" not in annotation
    counted = {"annotations": 1, "dropped": 1, "left_out:crowd": 1, "left_out:no_area": 2}
    assert facts["some"]["boxes"] == counted | {"removed:segmentation": 1, "removed:keypoints": 1}
    assert json.loads((tmp_path / "augment/metrics.json").read_text())["some"]["boxes"] == facts["some"]["boxes"]


def test_a_box_round_the_foreground_follows_a_picture_without_annotations(tmp_path: Path) -> None:
    write_split(tmp_path, [[sample(number, json=b"{}") for number in range(6)]])
    policy = [{"letterbox": {"size": 64}}, {"affine": {"scale": [0.8, 1.1], "translate_x": [-0.1, 0.1]}}]
    run(tmp_path, some={"policy": policy, "boxes": "foreground", "views": 2})
    for row in rows_of(tmp_path, "some"):
        pixels, described = view_of(tmp_path, "some", row)
        (annotation,) = described["annotations"]
        x, y, width, height = annotation["bbox"]
        where = np.argwhere(pixels[:, :, 0] > 100)
        np.testing.assert_allclose(
            [x, y, x + width, y + height], [*where.min(0)[::-1], *(where.max(0)[::-1] + 1)], atol=1
        )
        assert annotation["category_id"] == row["label"] + 1


def test_annotations_can_be_left_behind(data: Path) -> None:
    run(data, some={"policy": EXACT, "boxes": "drop"})
    described = view_of(data, "some", rows_of(data, "some")[0])[1]
    assert not {"annotations", "image_id", "file_name"} & set(described)


def test_a_bad_sample_is_a_row_for_each_view_and_stops_nobody(tmp_path: Path) -> None:
    good = [sample(number) for number in (*range(9), *range(30, 40))]
    png = dict(good[0].members)["png"]
    bad = [
        sample(20, png=png[: len(png) // 2]),
        sample(21, annotations=[{"bbox": [1, 2, 3]}]),
        sample(22, json=b"[]"),
        sample(23, size=(20, 20)),
    ]
    write_split(tmp_path, [[*good[:4], *bad, *good[4:]]])
    run(tmp_path, some={"policy": [{"center_crop": {"size": 30}}], "views": 2})
    rows = {row["key"]: row for row in rows_of(tmp_path, "some", kept_only=False)}
    assert len(rows) == 46
    found = [rows[f"{one.key}-a0001"] for one in bad]
    assert [row["outcome"] for row in found] == ["failed"] * 4
    assert [row["reason"] for row in found] == ["truncated", "bad_annotations", "bad_annotations", "policy_refused"]
    assert "annotation 0 has no bbox" in found[1]["detail"]
    assert "does not fit an image of (20, 20)" in found[3]["detail"]
    assert all(rows[f"{one.key}-a0000"]["outcome"] == "kept" for one in good)


def test_a_policy_that_boxes_cannot_follow_stops_the_stage_with_its_reason(data: Path) -> None:
    with pytest.raises(StageStopped, match="policy_refused"):
        run(data, some={"policy": "augmix"})
    write_split(data, [[sample(number, json=b"{}") for number in range(3)]])
    run(data, some={"policy": "augmix"})


def test_what_a_policy_refuses_of_one_picture_is_no_matter_to_its_company(tmp_path: Path) -> None:
    write_split(tmp_path, [[sample(0), sample(1), *(sample(number, json=b"{}") for number in range(2, 8))]])
    run(tmp_path, some={"policy": "augmix"})
    outcomes = [row["outcome"] for row in rows_of(tmp_path, "some", kept_only=False)]
    assert outcomes == ["failed"] * 2 + ["kept"] * 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_company_and_shards_change_no_view(data: Path, backend: str) -> None:
    settings = {"policy": VIEWS, "views": 2, "backend": backend}
    run(data, some=settings)
    all_views = {row["key"]: row["pixel_sha256"] for row in rows_of(data, "some")}
    run(data, some=settings | {"samples": 5}, shard_samples=2)
    few = {row["key"]: row["pixel_sha256"] for row in rows_of(data, "some")}
    assert len(few) == 10
    assert few.items() <= all_views.items()


def test_views_differ_from_each_other_and_between_seeds_and_sets(data: Path) -> None:
    run(
        data,
        one={"policy": VIEWS, "views": 2},
        two={"policy": VIEWS, "tag": "b"},
    )
    one, two = ([row["params"] for row in rows_of(data, name)] for name in ("one", "two"))
    assert len({json.dumps(json.loads(params)["draws"]) for params in [*one, *two]}) == 39


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_and_serial_leave_the_same_bytes(data: Path) -> None:
    settings = {"some": {"policy": VIEWS, "views": 2}, "boxed": {"policy": "detection", "tag": "b"}}
    run(data, **settings)
    expected = tree(data / "augment")
    (data / "augment").rename(data / "serial")
    execute(Augment(), job_of(data, **settings), lambda: RayRunner(2))
    assert_same(tree(data / "augment"), expected)


def test_the_number_of_threads_changes_no_view(data: Path) -> None:
    run(data, some={"policy": VIEWS, "views": 2})
    one = tree(data / "augment/some")
    run(data, some={"policy": VIEWS, "views": 2}, threads=3)
    assert_same(tree(data / "augment/some"), one)


def test_a_run_that_was_interrupted_ends_with_the_same_bytes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"some": {"policy": VIEWS, "views": 4}}
    run(data, **settings)
    expected = tree(data / "augment")
    (data / "augment").rename(data / "before")
    made = []

    def interrupted(maker: ViewMaker, parent: Parent, view: View, key: str) -> Sample:
        made.append(key)
        if len(made) == 20:
            raise KeyboardInterrupt
        return whole(maker, parent, view, key)

    whole = ViewMaker.sample
    with monkeypatch.context() as patch:
        patch.setattr(ViewMaker, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(data, **settings)
    assert not (data / "augment/some/index.json").exists()
    ran = execute(Augment(), job_of(data, **settings), SerialRunner)["ran"]
    assert 0 < ran < len(list((data / "augment/ledger/some").iterdir()))
    assert_same(tree(data / "augment"), expected)


def test_a_changed_shard_makes_only_its_own_views_anew(data: Path) -> None:
    settings = {"some": {"policy": EXACT}}
    run(data, **settings)
    shards = shards_of(5, 4, 3)
    shards[1][0] = sample(30)
    write_split(data, shards)
    pending = [unit.name for unit, _ in prepare(Augment(), job_of(data, **settings)).pending]
    assert pending == ["some/augment-000001-000"]


def test_another_set_leaves_those_that_are_done(data: Path) -> None:
    first = {"policy": EXACT}
    run(data, some=first)
    pending = prepare(Augment(), job_of(data, some=first, more={"policy": "none", "tag": "b"})).pending
    assert {unit.payload["set"] for unit, _ in pending} == {"more"}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "augment.sets={x: {policy: [rotat]}}",
            "augment.sets.x.policy: there is no operation 'rotat'; did you mean rotate?",
        ),
        ("augment.sets={x: {policy: imagenett}}", "there is no preset 'imagenett'; did you mean imagenet?"),
        ("augment.sets={x: {policy: none}, y: {policy: none}}", "two sets have the tag a"),
        ("augment.sets={ledger: {policy: none}}", "got 'ledger'"),
        ("augment.sets={x: {policy: none, view: 2}}", "unknown key augment.sets.x.view"),
        ("augment.source=augment/x", "source takes an earlier stage"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_before_any_work(repository: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_job("ingest", repository / "params.yaml", [override])
    assert sentence in str(caught.value)


def test_no_sets_and_no_source_name_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augment\.sets is empty: name a set"):
        run(tmp_path)
    with pytest.raises(UserError, match="run first: limbeck run split"):
        run(tmp_path, some={"policy": "none"})


def test_planning_imports_no_torch(repository: Path) -> None:
    code = "import sys, pipelines.stages.augment; print(sorted({'torch', 'ray', 'kornia'} & set(sys.modules)))"
    made = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "policy",
    [[{"roll": {"pixels": 2, "p": 0.1}}], [{"augmix": [{"rotate": {"degrees": 5}}], "p": 0.1}]],
    ids=["roll", "augmix"],
)
def test_boxes_round_every_foreground_and_a_policy_they_cannot_follow_do_not_go_together(policy: Any) -> None:
    with pytest.raises(ValueError, match="boxes cannot follow"):
        ViewSet(policy=policy, boxes="foreground")
    assert ViewSet(policy=policy, boxes="drop").boxes == "drop"


def test_an_operation_that_kornia_does_not_have_stops_the_stage_before_anything_is_viewed(tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    write_split(tmp_path, [[sample(0)]])
    policy = [{"kornia": {"p": 0.01, "operation": "RandomNothing"}}]
    with pytest.raises(UserError, match=r"augment\.sets\.\w+\.policy: .*RandomNothing"):
        run(tmp_path, some={"policy": policy})
    assert not (tmp_path / "augment" / "ledger").exists()
