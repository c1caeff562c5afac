"""Contexts told by a vision-language model: from a folder, always the same, cut to what a prompt can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synth.datadream.captioning import LONGEST, Captioner, as_phrase
from synth.errors import SynthError
from tests.synth.datadream.vlms import WORDS, save_blip


def test_an_image_has_one_context_whatever_was_captioned_before(tmp_path: Path) -> None:
    captioner = Captioner(save_blip(tmp_path / "blip"), torch.device("cpu"), words=6)
    images = torch.rand(3, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    first = captioner(images[0])
    assert first.background
    assert set(first.background.split()) <= set(WORDS)
    assert first.pose == ""
    captioner(images[1])
    assert captioner(images[0]) == first


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        SynthError, match=r"no vision-language model at .*nowhere: .*; give a folder that save_pretrained wrote"
    ):
        Captioner(str(tmp_path / "nowhere"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (" On a wooden\n table. ", "on a wooden table"),
        ("UV light", "UV light"),
        ("A", "a"),
        ("", ""),
        ("word " * 40, ("word " * 16).strip()),
    ],
)
def test_an_answer_becomes_a_phrase(answer: str, phrase: str) -> None:
    assert as_phrase(answer) == phrase
    assert len(as_phrase(answer)) <= LONGEST
