"""`limbeck explain`, `schema` and `validate`: what parameters are, as the models have it, and what is wrong with a file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field

from pipelines.commands.models import group_of
from pipelines.commands.schema import params_schema
from pipelines.config import Section
from tests.commands.conftest import PARAMS, Limbeck, write_params


@dataclass(frozen=True, kw_only=True)
class Method:
    """How it is done.

    `rate` is how fast. With `steps` None it follows from elsewhere.
    """

    rate: float = 0.5
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate takes 0 < value <= 1, got {self.rate}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps takes a whole number from 1, got {self.steps}")


class Inner(Section):
    size: int = Field(ge=2, le=1024, description="of what")


class Outer(Section):
    """Parameters of nothing."""

    word: Literal["a", "b"] | None = None
    sizes: tuple[int, ...] = Field((1, 2), min_length=1)
    method: Method = Method(rate=0.25)
    named: dict[str, Inner] = Field(default_factory=dict)


def test_a_key_says_its_kind_its_limits_its_default_and_what_it_is() -> None:
    group = group_of("outer", Outer)
    keys = {one.name: one for one in group.parameters}
    assert (keys["word"].kind, keys["word"].default) == ("a | b | null", "null")
    assert (keys["sizes"].kind, keys["sizes"].limits) == ("list of whole number", "at least 1 long")
    assert keys["sizes"].default == "[1, 2]"
    (size,) = keys["named"].sections["NAME"].parameters
    assert (size.limits, size.default, size.about) == ("from 2 up to 1 024", "required", "of what")
    rate, steps = keys["method"].sections[""].parameters
    assert (rate.limits, rate.default, rate.about) == ("0 < value <= 1", "0.25", "`rate` is how fast.")
    assert (steps.kind, steps.limits) == ("whole number | null", "from 1")
    assert steps.about == "With `steps` None it follows from elsewhere."
    assert [inner.path for inner in group.walk()] == ["outer", "outer.method", "outer.named.NAME"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", ["ingest", "report", "what holds for every stage"]),
        ("split", ["validation", "few_shot"]),
        ("cda.recover", ["milestone", "lower bound of the crop area"]),
        ("cda.recover.milestone", ["number", "0 to 1", "1.0"]),
        ("augment.sets.mine.views", ["whole number", "views of each image"]),
        ("ingest.sources.tar.damaged", ["refuse | head"]),
        ("run.breaker.max_failed", ["0.45"]),
    ],
)
def test_explain_prints_a_section_or_a_key(limbeck: Limbeck, path: str, words: list[str]) -> None:
    said = limbeck("explain", *([path] if path else []))
    assert said.code == 0, said.err
    assert all(word in said.out for word in words), said.out


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("cdaa", "did you mean cda?"),
        ("cda.recover.milstone", "did you mean cda.recover.milestone?"),
        ("ingest.sources.tarr", "did you mean ingest.sources.tar?"),
        ("split.validation.x", "split.validation is one value"),
    ],
)
def test_an_unknown_parameter_names_the_nearest(limbeck: Limbeck, path: str, hint: str) -> None:
    said = limbeck("explain", path)
    assert (said.code, said.out) == (2, "")
    assert hint in said.err


def test_the_schema_takes_every_file_of_the_repository_and_no_misspelt_one(repository: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks what editors would")
    check = jsonschema.Draft202012Validator(params_schema())
    for file in [repository / "params.yaml", *(repository / "recipes").glob("*.yaml")]:
        assert not list(check.iter_errors(yaml.safe_load(file.read_text()))), file
    wrong: list[Any] = [{"augment": {"sets": {"a": {"policy": "imagenett"}}}}]
    wrong += [{"cda": {"ipcs": 1}}, {"cda": {"ipc": 0}}, {"split": {"strategy": "luck"}}, {"sqeeze": {}}]
    for form in wrong:
        assert list(check.iter_errors(form)), form


def test_the_schema_lists_the_names_that_a_key_takes() -> None:
    keys = params_schema()["$defs"]
    assert "simclr" in keys["ViewSet"]["properties"]["policy"]["anyOf"][0]["enum"]
    assert "resnet20" in keys["SqueezeParams"]["properties"]["network"]["anyOf"][0]["enum"]


def test_the_schema_describes_keys_of_plain_dataclasses_too() -> None:
    milestone = params_schema()["$defs"]["RecoverConfig"]["properties"]["milestone"]
    assert "lower bound of the crop area" in milestone["description"]


@pytest.mark.usefixtures("project")
def test_validate_says_what_a_file_asks_for_and_what_is_not_there(limbeck: Limbeck) -> None:
    assert limbeck("validate").out.startswith("params.yaml is valid; it asks for ingest, split")
    write_params({**PARAMS, "ingest": {"sources": [{"type": "folder", "path": "./gone"}]}})
    said = limbeck("validate")
    assert said.code == 0
    assert "note: ingest.sources.0.path: ./gone is not there now" in said.out


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("verb", [("validate",), ("run", "ingest"), ("plan", "split")])
def test_a_wrong_name_anywhere_stops_every_verb(limbeck: Limbeck, verb: tuple[str, ...]) -> None:
    for override, hint in (
        ("augment.source=splitt/train", "did you mean split?"),
        ("evaluate.datadream.variants=[clss]", "'cls'"),
        (
            "datadream.variants=[dset]",
            "evaluate@datadream reads datadream@cls: datadream has no 'cls'; there is datadream@dset",
        ),
        ("augment.sets={a: {policy: imagenett}}", "imagenet"),
        ("sqeeze.epochs=1", "did you mean squeeze?"),
        (
            "evaluate.distilled.networks=[convnet9_w128]",
            "evaluate.distilled.networks.0: no network is called so; near it: convnet3_w128",
        ),
        ("squeeze.network=resnet21", "squeeze.network: no network is called so"),
    ):
        said = limbeck(*verb, "--set", override, "--set", "evaluate.datadream.seeds=1")
        assert said.code == 2, override
        assert hint in said.err, said.err
    assert not Path("data").exists()


def test_parameters_are_read_without_torch(repository: Path) -> None:
    code = "from pipelines.commands.validate import check_file as c; c('params.yaml'); import sys; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
