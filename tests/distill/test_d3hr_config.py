"""What `SelectConfig` settles and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distill.d3hr.config import SelectConfig
from distill.errors import DistillError


def test_what_is_left_out_is_what_the_mode_says() -> None:
    ours, published = SelectConfig().settled(), SelectConfig(mode="reference").settled()
    assert (ours.group, ours.noise, ours.precision) == ("standardised", "per_class", "float32")
    assert (published.group, published.noise, published.precision) == ("best_of", "global", "float16")
    assert published.candidates == 1_000_000
    assert published.weights == (1.0, 1.0, 0.1)
    assert ours.settled() == ours


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"group": "best"}, "group takes"),
        ({"components": 0, "class_model": "mixture"}, "components takes 1 or more, got 0"),
        ({"candidates": 0}, "candidates takes 1 or more"),
        ({"rank": -1}, "rank takes 1 or more"),
        ({"weights": (1.0, -1.0, 0.0)}, "weights take numbers from 0 on"),
        ({"weights": (0.0, 0.0, 0.0)}, "weights take numbers from 0 on"),
        ({"weights": (1.0, float("nan"), 0.0)}, "weights takes"),
        ({"components": 4}, "components belong to class_model mixture, which is diagonal"),
        ({"group": "best_of", "class_model": "mixture"}, "best_of scores draws of a diagonal Gaussian"),
        ({"group": "medoids", "class_model": "low_rank"}, "medoids takes real latents"),
        (
            {"group": "antithetic", "class_model": "mixture"},
            "opposite members about one centre, and a mixture has several",
        ),
        ({"mode": "reference", "group": "standardised"}, "mode reference has group best_of, got standardised"),
        ({"mode": "reference", "noise": "per_class"}, "mode reference has noise global"),
        ({"mode": "reference", "precision": "float32"}, "mode reference has precision float16"),
        ({"mode": "reference", "class_model": "mixture"}, "mode reference has class_model diagonal"),
        ({"mode": "reference", "weights": (1.0, 1.0, 0.5)}, "mode reference has weights"),
        ({"mode": "reference", "candidates": 12_345}, "10000 candidates at a time, got 12345"),
    ],
)
def test_values_without_a_meaning_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        SelectConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "ipc", "words"),
    [
        (SelectConfig(), 0, "one image or more, got 0"),
        (SelectConfig(mode="reference"), 1, "mode reference has no group of one image"),
        (SelectConfig(class_model="mixture", components=3), 2, "each of 3 components takes an image, and there are 2"),
    ],
)
def test_groups_that_there_are_none_of_are_refused_before_any_work(config: SelectConfig, ipc: int, words: str) -> None:
    with pytest.raises(DistillError, match=words):
        config.require_members(ipc)
    config.require_members(3)


def test_the_parameters_load_no_torch() -> None:
    code = "import sys, distill.d3hr.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
