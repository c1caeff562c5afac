"""Captions by template: who writes them, what keeps its own, and that open_clip's loader finds pairs of image and text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset

from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from tests.stages.test_pipeline import params_of, write_source

TEMPLATE = "a photo of a {label_name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, one image of which has a caption of its own, ingested with a template and taken on to distilled images."""
    root = tmp_path_factory.mktemp("captions")
    write_source(root / "source")
    (root / "source/train/left/000.txt").write_text("seen from the left")
    run(root, "data", "ingest", "split", "squeeze", "cda")
    return root


def run(root: Path, data: str, *stages: str, caption: str | None = TEMPLATE) -> Path:
    params = params_of(root / "source", root)
    told = [f"{stage}.caption={json.dumps(caption)}" for stage in ("ingest", "cda")]
    for stage in stages:
        run_stage(make_job(stage, params, [*told, "squeeze.training.epochs=1"], str(root / data)), "serial", debug=True)
    return root / data


def pairs_as_open_clip_reads(dataset: Path) -> list[tuple[Any, str]]:
    """Its own steps: sizes.json beside the shards, images under any of four names, samples without a text left out."""
    shards = [str(path) for path in sorted((dataset / "shards").glob("*.tar"))]
    sizes = json.loads((Path(shards[0]).parent / "sizes.json").read_text())
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.select(lambda sample: "txt" in sample and {"png", "jpg", "jpeg", "webp"} & set(sample)),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.to_tuple("image", "text"),
    )
    pairs = list(pipeline)
    assert len(pairs) == sum(int(sizes[Path(shard).name]) for shard in shards)  # none was left out
    return pairs


def test_open_clip_reads_a_split_of_captioned_images(folder: Path) -> None:
    pairs = pairs_as_open_clip_reads(folder / "data/split/test")
    assert Counter(text for _, text in pairs) == {"a photo of a left": 6, "a photo of a right": 6}
    assert {image.mode for image, _ in pairs} == {"RGB"}


def test_an_image_with_a_caption_of_its_own_keeps_it(folder: Path) -> None:
    texts = Counter(text for _, text in pairs_as_open_clip_reads(folder / "data/ingest"))
    assert texts == {"a photo of a left": 21, "a photo of a right": 22, "seen from the left": 1}


def test_open_clip_reads_distilled_images_with_captions(folder: Path) -> None:
    texts = Counter(text for _, text in pairs_as_open_clip_reads(folder / "data/cda"))
    assert texts == {"a photo of a left": 2, "a photo of a right": 2}


def test_without_a_template_no_image_gets_a_caption(folder: Path) -> None:
    plain = run(folder, "plain", "ingest", caption=None)
    shards = [str(path) for path in (plain / "ingest/shards").glob("*.tar")]
    texts = [sample.get("txt") for sample in webdataset.WebDataset(shards, shardshuffle=False)]
    assert Counter(texts) == {None: 43, b"seen from the left": 1}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("a photo of a {class}", r"a caption knows \{label_name\} and no \{class\}"),
        ("{label_name!r}", "a caption knows"),
        ("{}", "a caption knows"),
        ("a {label_name", "ingest.caption: .*a brace itself is written twice"),
        (" ", "a caption of no words"),
    ],
)
def test_a_template_that_says_nothing_sensible_is_refused(folder: Path, template: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(folder, "refused", "ingest", caption=template)
