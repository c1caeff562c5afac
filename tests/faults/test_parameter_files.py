"""A parameter file that cannot mean what it says is refused in one sentence, with its line or its key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.commands.jobs import make_job
from pipelines.config import Section, load_sections, read_params
from pipelines.errors import UserError


def refused(tmp_path: Path, text: bytes, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=sentence) as caught:
        make_job("ingest", path)
    assert "\n" not in str(caught.value)


def repeated_twenty_times() -> bytes:
    """Each anchor holds the one before it ten times: short for YAML, without end for whoever walks through all of it."""
    return b"ingest: {sources: [{type: folder, path: x}]}\nrun:\n  seed:\n    a0: &a0 [1]\n" + b"".join(
        b"    a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 20)
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            b"ingest:\n  shard_samples: 1\n  order: source\n  shard_samples: 2\n",
            "shard_samples stands in line 2 and again in line 4",
        ),
        (b"run: {seed: 1}\ningest: {}\nrun: {seed: 2}\n", "run stands in line 1 and again in line 3"),
        (b"run: {seed: 1, seed: 2}\n", "seed stands in line 1 and again in line 1"),
        (b"cda:\n- a: 1\n  a: 1\n", "a stands in line 2 and again in line 3"),
        (b"a: [\n", "not valid YAML"),
        (b"\xff\xfea", "is not UTF-8 text"),
        (b"a: " + b"[" * 5000, "not valid YAML"),
        (b"run: {since: 2024-13-45}\n", "not valid YAML"),
        (b"1: {}\ningest: {sources: [{type: folder, path: x}]}\n", "unknown section 1"),
        (b"run: {seed: .inf}\n", r"run.seed: inf is not a finite number"),
        (b"split: {validation: .nan}\n", r"split.validation: nan is not a finite number"),
        (
            b"squeeze: {training: {learning_rate: -.inf}}\n",
            r"squeeze.training.learning_rate: -inf is not a finite number",
        ),
        (
            b"augment: {sets: {a: {policy: [{rotate: {degrees: [0, .inf]}}]}}}\n",
            r"augment.sets.a.policy.0.rotate.degrees.1: inf",
        ),
        (b"run: {seed: 1e999}\n", "run.seed: inf is not a finite number"),
        (b"run: &a {seed: *a}\n", "found unconstructable recursive node"),
        (b"run: {seed: [&a {b: [*a]}]}\n", "found unconstructable recursive node"),
        (b"run: {seed: 0x" + b"f" * 5000 + b"}\n", "run.seed: a number of 20000 bits is too large"),
        (repeated_twenty_times(), "run.seed: input should be a valid integer"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_sentence(tmp_path: Path, text: bytes, sentence: str) -> None:
    refused(tmp_path, text, sentence)


def test_an_override_is_held_to_the_same(repository: Path) -> None:
    for override, sentence in (("cda.ipc=.inf", "not a finite number"), ("cda={ipc: 1, ipc: 2}", "again in line 1")):
        with pytest.raises(UserError, match=sentence):
            make_job("cda", repository / "params.yaml", [override])


@pytest.mark.parametrize("text", ["inf", "nan", "-Infinity", "1e999"])
def test_a_number_written_as_text_is_no_way_round(text: str) -> None:
    @dataclass(frozen=True)
    class Inner:
        rate: float = 0.1

    class Outer(Section):
        rate: float = 0.1
        inner: Inner = Inner()

    for raw in ({"rate": text}, {"inner": {"rate": text}}):
        with pytest.raises(UserError):
            load_sections({"outer": raw}, {"outer": Outer}, "params.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E4", 2e4), ("-1.5e3", -1500.0), (".5e1", 5.0), ("1.0e-3", 1e-3)]
)
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, text: str, value: float) -> None:
    """YAML 1.1 reads 1e-3 as text, DVC and people as a number."""
    (tmp_path / "p.yaml").write_text(f"a: {text}\nb: [{text}, '{text}', x{text}]\n")
    raw = read_params(tmp_path / "p.yaml", [f"c={text}"])
    assert raw == {"a": value, "b": [value, text, f"x{text}"], "c": value}


def test_a_number_where_text_is_meant_says_to_quote_it(tmp_path: Path) -> None:
    refused(
        tmp_path,
        b"ingest: {sources: [{type: folder, path: x, classes: [1e5, cat]}]}\n",
        r"classes.0: input should be a valid string \(got 100000.0\); put it in quotes to make it text",
    )


def test_merged_keys_may_be_given_anew(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_params(tmp_path / "p.yaml")["b"] == {"x": 3, "y": 2}
