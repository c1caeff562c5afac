"""What stands beside an image, COCO annotations above all, and how ingest keeps it true of the stored picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.config import RunParams
from pipelines.images import ImageParams, Processed, decode_rgb, process
from pipelines.images.documents import stored_document
from pipelines.images.geometry import Plan, move_boxes, plan
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.sources import FolderParams, TarParams, open_source
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest
from tests.sources.test_tar import write_tar

CROP = ImageParams(resize="center_crop", size=512, upscale=True)
SQUASH = ImageParams(resize="exact", size=512, upscale=True)
LETTERBOX = ImageParams(resize="pad", size=512)


def png(width: int, height: int, box: tuple[int, int, int, int] | None = None, level: int = 255) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = level
    return cv2.imencode(".png", pixels)[1].tobytes()


def moved(box: list[float], width: int, height: int, params: ImageParams) -> list[float]:
    sizes = plan((height, width), params)
    assert sizes is not None
    return move_boxes(np.array([box], np.float64), (height, width), sizes)[0].tolist()


def stored(document: Any, raw: bytes, params: ImageParams) -> dict[str, Any]:
    made = process(raw, params)
    assert isinstance(made, Processed)
    return stored_document(document, "key", made, params)


def coco(*boxes: list[float], **more: Any) -> dict[str, Any]:
    """A document with these x, y, w, h."""
    return {"annotations": [{"id": 5 + place, "bbox": box, "category_id": 1} for place, box in enumerate(boxes)]} | more


def test_the_worked_boxes_of_the_sheet_come_out() -> None:
    """specs/gen2det.md 6.1 and 6.3."""
    box = [100.0, 120.0, 300.0, 280.0]
    assert moved(box, 640, 480, SQUASH) == pytest.approx([80, 128, 240, 298.6667], abs=1e-4)
    assert moved(box, 640, 480, LETTERBOX) == pytest.approx([80, 160, 240, 288])
    # The whole picture is resized before it is cut, and by whole pixels: 683 wide, 85 cut on the left.
    assert moved(box, 640, 480, CROP) == pytest.approx([21.3333, 128, 234.6667, 298.6667], abs=0.5)
    assert moved([40, 50, 140, 150], 640, 480, CROP)[0] < 0


@pytest.mark.parametrize("params", [CROP, SQUASH, LETTERBOX, ImageParams(resize="shorter", size=40)], ids=str)
@pytest.mark.parametrize("size", [(120, 90), (90, 121), (97, 97)])
def test_boxes_go_where_the_pixels_go(params: ImageParams, size: tuple[int, int]) -> None:
    side = min(params.size or 0, 48)
    params = params.model_copy(update={"size": side, "format": "png"})
    box = (40, 34, 71, 62)
    raw = png(*size, box)
    found = stored(coco([40, 34, 31, 28]), raw, params)["annotations"][0]["bbox"]
    made = process(raw, params)
    assert isinstance(made, Processed)
    pixels = decode_rgb(made.data)
    assert isinstance(pixels, np.ndarray)
    share = pixels[:, :, 0] / 255.0
    # The white area, and its middle, are those of the box to a fraction of a pixel.
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    x, y, width, height = found
    assert share.sum() == pytest.approx(width * height, rel=0.03)
    assert (columns * (np.arange(len(columns)) + 0.5)).sum() / columns.sum() == pytest.approx(x + width / 2, abs=0.15)
    assert (rows * (np.arange(len(rows)) + 0.5)).sum() / rows.sum() == pytest.approx(y + height / 2, abs=0.15)


def test_what_is_cut_away_is_dropped_and_counted() -> None:
    found = stored(
        coco([0, 0, 60, 60], [40, 50, 100, 100], [100, 120, 200, 160], [90, 90, 0.5, 0.5]), png(640, 480), CROP
    )
    assert [item["id"] for item in found["annotations"]] == [6, 7]
    assert found["annotations"][0]["bbox"][0] == 0  # 60 % of it is left, clipped
    assert found["annotations_left_out"] == {"no_area": 2}
    assert all(
        item["area"] == pytest.approx(item["bbox"][2] * item["bbox"][3], abs=0.05) for item in found["annotations"]
    )


def test_outlines_stay_where_the_picture_keeps_its_size_and_crowds_always() -> None:
    item = {"bbox": [1, 2, 10, 10], "iscrowd": 1, "segmentation": {"counts": "x", "size": [64, 64]}, "area": 7}
    document = {"annotations": [item], "image_id": 12, "licence": "CC0"}
    same = stored(document, png(64, 64), ImageParams(format="png"))
    assert same["annotations"][0]["segmentation"] == item["segmentation"]
    assert (same["annotations"][0]["area"], same["image_id"], same["licence"]) == (7, 12, "CC0")
    assert same["annotations"][0]["id"] > 0
    half = stored(document, png(64, 64), ImageParams(resize="exact", size=32))
    assert half["annotations"][0]["bbox"] == [0.5, 1, 5, 5]
    assert half["annotations"][0]["iscrowd"] == 1
    assert "segmentation" not in half["annotations"][0]
    assert half["annotations_left_out"] == {"segmentation": 1}


def test_an_id_of_zero_is_replaced_since_evaluators_read_it_as_unmatched() -> None:
    found = stored({"annotations": [{"id": 0, "bbox": [1, 1, 9, 9]}], "image_id": "x"}, png(32, 32), ImageParams())
    assert found["annotations"][0]["id"] > 0
    assert found["annotations"][0]["image_id"] == found["image_id"] > 0


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"annotations": {}}, "annotations are a list, not dict"),
        ({"annotations": [{"bbox": [1, 2, 3]}]}, "annotation 0 has no bbox of four numbers"),
        ({"annotations": [{"bbox": [1, 2, 3, True]}]}, "annotation 0 has no bbox"),
        ({"annotations": [], "width": 48, "height": 64}, "of a picture of 48x64, but it has 64x48"),
    ],
)
def test_annotations_that_cannot_be_true_are_told(document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stored(document, png(64, 48), ImageParams())


def turned_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose EXIF says: turn me by a quarter (orientation 6)."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()
    return plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ({"width": 48, "height": 64}, True),
        ({}, True),
        ({"width": None, "height": 64}, True),
        ({"width": 64, "height": 48}, False),
    ],
)
def test_boxes_beside_a_turned_photo_are_of_the_upright_one(size: dict[str, Any], kept: bool) -> None:
    document = coco([4, 50, 10, 6], **size)
    if kept:
        assert stored(document, turned_jpeg(64, 48), ImageParams(format="png"))["annotations"][0]["bbox"] == [
            4,
            50,
            10,
            6,
        ]
        return
    with pytest.raises(ValueError, match=r"64x48, but it has 48x64; they were made before .* as its EXIF orientation"):
        stored(document, turned_jpeg(64, 48), ImageParams(format="png"))


def test_a_box_of_numbers_nobody_can_count_to_is_none() -> None:
    with pytest.raises(ValueError, match="annotation 0 has no bbox"):
        stored(coco([10**400, 1, 2, 3]), png(64, 48), ImageParams())


def test_a_crop_of_an_odd_surplus_cuts_like_the_pixels() -> None:
    sizes = Plan((8, 11), (8, 8))
    assert move_boxes(np.array([[1.0, 0, 9, 8]]), (8, 11), sizes).tolist() == [[0, 0, 8, 8]]
    sizes = Plan((8, 5), (8, 8))
    assert move_boxes(np.array([[0.0, 0, 5, 8]]), (8, 5), sizes).tolist() == [[1, 0, 6, 8]]


def test_a_folder_and_a_tar_hand_over_what_stands_beside_their_images(tmp_path: Path) -> None:
    document = coco([8, 8, 16, 16], image_id=3)
    members = {
        "cat/a.png": png(64, 48),
        "cat/a.json": json.dumps(document).encode(),
        "cat/b.png": png(64, 48, (0, 0, 9, 9)),
        "cat/b.json": b'{"url": "x"}',
        "cat/c.png": png(64, 48, (0, 0, 8, 8)),
    }
    for name, data in members.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    tar = write_tar(tmp_path / "a.tar", *members.items())
    folder, tarred = FolderParams(path=str(tmp_path / "folder")), TarParams(path=str(tar))
    for params in (folder, tarred):
        records = list(open_source(params).scan())
        assert [record.source.rpartition("/")[2] for record in records] == ["a.png", "b.png", "c.png"]
        assert json.loads(records[0].document or "") == document
        assert [record.document for record in records[1:]] == [None, None]
    image = {"resize": "pad", "size": 32, "format": "png"}
    for params in (folder, tarred):
        section = IngestParams.model_validate({"sources": [params.model_dump(mode="json")], "image": image})
        place = tmp_path / "out" / params.type
        execute(Ingest(), Job("ingest", section, RunParams(device="cpu"), str(place)), SerialRunner)
        dataset = Dataset.open(place / "ingest")
        rows = dataset.rows(["key", "source", "members"]).to_pylist()
        told = {
            row["source"].rpartition("/")[2]: json.loads(dataset.read(row["shard"], row["key"], row["members"])["json"])
            for row in rows
        }
        assert told["a.png"]["annotations"][0]["bbox"] == [4, 8, 8, 8]
        assert (told["a.png"]["width"], told["a.png"]["src_width"], told["a.png"]["image_id"]) == (32, 64, 3)
        assert "annotations" not in told["b.png"] | told["c.png"]


def test_an_image_whose_annotations_are_of_another_size_fails_alone(tmp_path: Path) -> None:
    for name, width in (("a", 64), ("b", 63)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(png(64, 48, (0, 0, width - 40, 9)))
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps(coco([1, 1, 9, 9], width=width, height=48)))
    source = {"type": "folder", "path": str(tmp_path / "in"), "layout": "flat"}
    section = IngestParams.model_validate({"sources": [source]})
    run = RunParams.model_validate({"device": "cpu", "breaker": {"max_failed": 1}})
    execute(Ingest(), Job("ingest", section, run, str(tmp_path)), SerialRunner)
    stats = json.loads((tmp_path / "ingest" / "stats.json").read_text())
    assert stats["outcomes"] == {"kept": 1, "dropped": 0, "failed": 1}
    assert "bad_annotations" in json.dumps(stats)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"annotations": ',
        '{"annotations": [], "score": NaN}',
        '{"annotations": [], "score": 1e999}',
        '{"annotations": [], "by": "\\ud800"}',
        '{"annotations": [], "n": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_json_that_cannot_be_kept_is_the_problem_of_one_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(png(16, 16))
    (tmp_path / "sound.png").write_bytes(png(16, 17))
    (tmp_path / "a.json").write_text(text)
    records = list(open_source(FolderParams(path=str(tmp_path), layout="flat")).scan())
    assert [record.problem and record.problem.reason for record in records] == ["bad_json", None]


def test_json_with_no_image_beside_it_describes_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16, 16))
    (tmp_path / "b.json").write_text("{")
    source = open_source(FolderParams(path=str(tmp_path), layout="flat"))
    assert [record.problem for record in source.scan()] == [None]
    assert source.passed_over() == {"no_image_ending": 1}
