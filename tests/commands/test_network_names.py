"""Names of networks are checked when parameters are read, without torch; what is accepted is what can be built."""

from __future__ import annotations

import pytest

from distill.names import CifarResNetName, ConvNetName, read_name
from pipelines.networks import require_network, timm_names


def test_names_of_ours_say_what_is_built() -> None:
    assert read_name("convnet3_w128") == ConvNetName(3, 128, False)
    assert read_name("convnet4_w64_in") == ConvNetName(4, 64, True)
    assert read_name("resnet20") == CifarResNetName(20, 16)
    assert read_name("resnet18") is None


@pytest.mark.parametrize("name", ["convnet3_w128", "resnet20", "resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224"])
def test_a_network_that_there_is_may_be_named(name: str) -> None:
    assert require_network(name) == name


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet21", "resnet"), ("convnet9_w128", "convnet3_w128"), ("convnet3_w0", "no channels"), ("zzz", "resnet18")],
)
def test_another_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=near):
        require_network(name)


def test_the_names_found_in_timm_s_source_are_those_that_it_registers() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: limbeck[distill]")
    assert set(timm.list_models()) <= timm_names()
    assert all(timm.is_model(name) for name in timm_names())
