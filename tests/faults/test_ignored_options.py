"""What would be ignored, and what YAML reads as another thing than it looks like, is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from augment.augmenter import Augmenter
from augment.errors import PolicyError
from augment.policy import load
from pipelines.config import load_sections
from pipelines.errors import UserError
from pipelines.loaders.dataset import MapDataset
from pipelines.stages.datadream.params import DatadreamParams
from pipelines.stages.evaluate.params import evaluate_params
from pipelines.stages.squeeze.params import SqueezeParams
from tests.loaders.making import write_dataset

MODELS = {"evaluate": evaluate_params(), "squeeze": SqueezeParams, "datadream": DatadreamParams}


def read(text: str) -> Any:
    return load_sections(yaml.safe_load(text), MODELS, "params.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "evaluate: {distilled: {soft: {views: {crop: none}}}}",
            "soft.views would be ignored: .*relabel.views; leave it out",
        ),
        ("evaluate: {distilled: {soft: {batch_size: 7}}}", "soft.batch_size would be ignored: .*relabel.batch_size"),
        ("evaluate: {distilled: {soft: {label_smoothing: 0.1}}}", "soft.label_smoothing would be ignored"),
        ("evaluate: {distilled: {soft: {soft_loss: mse_gt, temperature: 4}}}", "soft.temperature would be ignored"),
        ("evaluate: {distilled: {hard: {temperature: 4}}}", "hard.temperature would be ignored: its labels are hard"),
        ("evaluate: {distilled: {full: {soft_loss: kl}}}", "full.soft_loss would be ignored"),
        ("squeeze: {training: {t_squared: true}}", "training.t_squared would be ignored"),
        (
            "evaluate: {datadream: {student: {training: {temperature: 4}}}}",
            "student.training.temperature would be ignored",
        ),
        ("evaluate: {datadream: {student: {training: {evaluate_every: 4}}}}", "looked at after its last epoch"),
        ("evaluate: {datadream: {student: {training: {epochs: 0}}}}", "student.training.epochs takes .* from 1"),
        ("evaluate: {distilled: {hard: {epochs: 0}}}", "hard.epochs takes a whole number from 1, got 0"),
        ("evaluate: {distilled: {soft: {epochs: 0}}}", "soft.epochs takes"),
        ("evaluate: {network: resnet18, seeds: 2}", "network, seeds are of evaluate.distilled now: move them there"),
        ("evaluate: {arms: [], datadream: {}}", "arms: .. is not needed: without a section evaluate.distilled"),
        ("datadream: {names: {'0': ' '}}", "class '0' is called by an empty text"),
        ("datadream: {names: {0: zero}}", "key 0 is no text to YAML; write class names in quotes"),
        ("datadream: {names: {no: norwegian}}", "key False is no text to YAML"),
        ("evaluate: {datadream: {names: {1.5: x}}}", "key 1.5 is no text to YAML"),
    ],
)
def test_it_is_refused_when_the_file_is_read(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read(text)


def test_what_is_used_is_taken() -> None:
    read("evaluate: {distilled: {soft: {temperature: 4, epochs: 3}, hard: {batch_size: 4, label_smoothing: 0.1}}}")
    read("datadream: {names: {'0': zero}}\nsqueeze: {training: {label_smoothing: 0.1, learning_rate: 1e-1}}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[{rotate: {degrees: [-1e1, 10]}}]", "degrees got the text '-1e1', where YAML wants a number with a point: write -10.0"),
        ("[{color_jitter: {brightness: 1e-1}}]", "brightness got the text '1e-1'.*write 0.1"),
        ("{preset: randaugment, magnitude: 1e1}", "magnitude got the text '1e1'"),
        ("[{rotate: {1: 2}}]", "rotate has the key 1, which YAML reads as a number"),
        ("[{on: {p: 1}}]", "a policy has the key True, which YAML reads as a switch.*in quotes"),
        ("{operations: [], fill: 1e-1}", "fill got the text '1e-1'"),
    ],
)  # fmt: skip
def test_a_policy_says_what_yaml_made_of_it(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        load(yaml.safe_load(text))
    load({"operations": [], "name": "7"})


class Turned:
    """A transform with an augmenter of its own; hands out the epoch that it drew for."""

    def __init__(self, augmenter: Augmenter) -> None:
        self.augmenter = augmenter

    def __call__(self, sample: dict[str, Any]) -> tuple[int, float]:
        made = self.augmenter(sample["image"][None], [sample["key"]])
        return self.augmenter.epoch, float(made.images.float().mean())


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_outlive_an_epoch_see_the_next(tmp_path: Path, context: str) -> None:
    augmenter = Augmenter([{"brightness": {"factor": [0.2, 1.8]}}], seed=1)
    dataset = MapDataset(write_dataset(tmp_path), Turned(augmenter))
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True, multiprocessing_context=context)
    seen = []
    for epoch in range(3):
        augmenter.epoch = epoch
        batches = [torch.stack([one.double() for one in batch]) for batch in loader]
        assert all(int(batch[0]) == epoch for batch in batches)
        seen.append(torch.stack([batch[1] for batch in batches]))
    assert not torch.equal(seen[0], seen[1])
    augmenter.epoch = 1
    assert [dataset[0][1]] == seen[1][0].tolist()
