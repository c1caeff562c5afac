"""What a teacher starts from: the mean and spread of the images, and pretrained weights whose head may be for other classes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.networks import build, head_names
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.shards.dataset import Dataset
from tests.contract.folders import tree
from tests.stages.test_pipeline import params_of, write_source


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes of 16 px ingested and split."""
    folder = tmp_path_factory.mktemp("start")
    write_source(folder / "source")
    params = params_of(folder / "source", folder)
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(folder / "data")), "serial")
    return folder


def squeeze(split: Path, data: Path, *changes: str) -> dict[str, Any]:
    """Train for an epoch on the split above into `data`, and give teacher.json."""
    if not data.exists():
        shutil.copytree(split / "data", data)
    job = make_job("squeeze", split / "params.yaml", ["squeeze.training.epochs=1", *changes], str(data))
    run_stage(job, "serial", debug=True)
    facts: dict[str, Any] = json.loads((data / "squeeze/teacher.json").read_text())
    return facts


def arrays(images: np.ndarray[Any, np.dtype[np.uint8]]) -> ImageArrays:
    return ImageArrays(images, np.zeros(len(images), np.int64), [""] * len(images))


def test_statistics_of_channels_are_those_of_all_pixels_in_double_precision() -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 9, 7)).astype(np.uint8)
    images[:, 1] //= 3
    means, spreads = arrays(images).channel_statistics()
    real = images.astype(np.float64) / 255
    np.testing.assert_allclose(means, real.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(spreads, real.std((0, 2, 3)), rtol=1e-12)


def test_statistics_of_channels_do_not_depend_on_the_order_of_images() -> None:
    images = np.random.default_rng(1).integers(0, 256, (200, 3, 5, 5)).astype(np.uint8)
    assert arrays(images).channel_statistics() == arrays(images[::-1].copy()).channel_statistics()


def test_auto_is_the_mean_and_spread_of_the_training_images_alone(split: Path, tmp_path: Path) -> None:
    facts = squeeze(split, tmp_path / "data", "squeeze.mean=auto", "squeeze.std=auto")
    train = load_arrays(Dataset.open(split / "data/split/train")).images.astype(np.float64) / 255
    np.testing.assert_allclose(facts["mean"], train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(facts["std"], train.std((0, 2, 3)), rtol=1e-12)
    # A teacher that was told the same numbers is the same teacher.
    numbers = [f"squeeze.mean={facts['mean']}", f"squeeze.std={facts['std']}"]
    squeeze(split, tmp_path / "again", *numbers)
    teacher = "squeeze/teacher.safetensors"
    assert (tmp_path / "data" / teacher).read_bytes() == (tmp_path / "again" / teacher).read_bytes()


def test_one_of_the_two_may_be_given(split: Path, tmp_path: Path) -> None:
    facts = squeeze(split, tmp_path / "data", "squeeze.std=auto")
    assert facts["mean"] == [0.5, 0.5, 0.5]
    assert facts["std"] != [0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["squeeze.mean=automatic"], "squeeze.mean: input should be 'auto'"),
        (["squeeze.mean=[0.5, 0.5]"], "missing key squeeze.mean.2"),
        (["squeeze.training.epochs=0", "squeeze.mean=auto"], "with epochs: 0 weights are taken as they are"),
    ],
)
def test_what_auto_cannot_mean_is_refused(split: Path, tmp_path: Path, changes: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        squeeze(split, tmp_path / "data", *changes)


def weights_of(folder: Path, network: str, classes: int, size: int = 16, **change: Any) -> Path:
    """Weights of a network for other classes, in a file; `change` replaces tensors or, by None, leaves them out."""
    state = {**build(network, classes, size, seed=7).state_dict(), **change}
    path = folder / f"{network}_{classes}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items() if tensor is not None}, path)
    return path


@pytest.mark.parametrize(
    ("network", "head"),
    [("convnet2_w8", "classifier"), ("resnet20", "linear"), ("mobilenetv3_small_050", "classifier")],
)
def test_the_head_of_a_network_is_named(network: str, head: str) -> None:
    model = build(network, 5, 32)
    assert head_names(model) == (head,)
    assert model.state_dict()[f"{head}.weight"].shape[0] == 5


def test_a_head_of_other_classes_is_made_anew_and_said(split: Path, tmp_path: Path) -> None:
    path = weights_of(tmp_path, "convnet2_w8", 1000)
    said = r"has a head for 1000 classes, and here are 2: classifier of convnet2_w8 made anew, and trained"
    with pytest.warns(UserWarning, match=said):
        facts = squeeze(split, tmp_path / "data", f"squeeze.weights={path}", "squeeze.training.learning_rate=1e-12")
    assert facts["new_head"] is True
    backbone, teacher = load_file(path), load_file(tmp_path / "data/squeeze/teacher.safetensors")
    torch.testing.assert_close(teacher["features.0.weight"], backbone["features.0.weight"])
    assert teacher["classifier.weight"].shape[0] == 2


def test_a_backbone_without_a_head_gets_one(split: Path, tmp_path: Path) -> None:
    path = weights_of(tmp_path, "convnet2_w8", 4, **{"classifier.weight": None, "classifier.bias": None})
    with pytest.warns(UserWarning, match="has no head: classifier of convnet2_w8 made anew"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={path}")


def test_a_head_that_fits_is_taken_without_a_word(split: Path, tmp_path: Path) -> None:
    path = weights_of(tmp_path, "convnet2_w8", 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="squeeze.weights")
        assert "new_head" not in squeeze(split, tmp_path / "data", f"squeeze.weights={path}")


def test_a_new_head_is_not_taken_untrained(split: Path, tmp_path: Path) -> None:
    path = weights_of(tmp_path, "convnet2_w8", 3)
    with pytest.raises(UserError, match="a head for 3 classes, and here are 2, and a head made anew has to be trained"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={path}", "squeeze.training.epochs=0")


@pytest.mark.parametrize(
    ("network", "size", "change", "sentence"),
    [
        ("convnet2_w8", 32, {}, "classifier.weight is 3x512 there and 2x128 here"),
        (
            "convnet2_w8",
            16,
            {"features.0.weight": torch.ones(9, 3, 3, 3)},
            "features.0.weight is 9x3x3x3 there and 8x3x3x3",
        ),
        ("convnet2_w8", 16, {"features.1.weight": None}, "it lacks features.1.weight"),
        ("convnet2_w8", 16, {"more": torch.ones(1)}, "it has more, unknown here"),
    ],
)
def test_any_other_difference_stays_an_error(
    split: Path, tmp_path: Path, network: str, size: int, change: dict[str, Any], sentence: str
) -> None:
    path = weights_of(tmp_path, network, 3, size, **change)
    with pytest.raises(UserError, match=f"does not fit convnet2_w8 as it is for images of 16 px: .*{sentence}"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={path}")
    assert not (tmp_path / "data/squeeze").exists()


def test_a_resnet_of_large_images_says_that_its_stem_is_another(split: Path, tmp_path: Path) -> None:
    path = weights_of(tmp_path, "resnet18", 2, 16, **{"conv1.weight": torch.ones(64, 3, 7, 7)})
    with pytest.raises(UserError, match="smaller stem for images up to 64 px: ingest at more"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={path}", "squeeze.network=resnet18")


def test_a_folder_as_timm_saves_it_is_read(split: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pretrained"
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={folder}")
    weights_of(tmp_path, "convnet2_w8", 1000).rename(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match="head for 1000 classes"):
        squeeze(split, tmp_path / "data", f"squeeze.weights={folder}")
    again = tree(tmp_path / "data/squeeze")
    squeeze(split, tmp_path / "data", f"squeeze.weights={folder}")
    assert tree(tmp_path / "data/squeeze") == again


@pytest.mark.parametrize("wrapped", [lambda state: {"state_dict": state}, lambda state: {"model": state}])
def test_a_checkpoint_of_a_wrapped_network_is_read(split: Path, tmp_path: Path, wrapped: Any) -> None:
    state = build("convnet2_w8", 2, 16, seed=7).state_dict()
    torch.save(wrapped({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}), tmp_path / "run.pt")
    squeeze(split, tmp_path / "data", f"squeeze.weights={tmp_path / 'run.pt'}")
