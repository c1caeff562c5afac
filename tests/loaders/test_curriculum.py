"""Playing a curriculum: exact epochs of the right images, one order for any ranks and workers, resume at any batch; and its file."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.artifacts.curriculum import curriculum_bytes, read_curriculum
from pipelines.errors import UserError
from pipelines.loaders.curriculum import CurriculumDataset
from pipelines.loaders.loader import StreamLoader
from pipelines.storage import canonical_json
from synth.discl.mix import Mix
from synth.discl.schedules import Mode, Strategy, schedule
from synth.discl.table import Curriculum, curriculum
from synth.errors import SynthError
from tests.loaders.making import CLASSES, key_of, merged, write_dataset

LEVELS = (10, 30, 50)
#: Of 53 real images the last 13 are hard, 2 of them held out; of each of the 13 there are 4 synthetic ones, and one more.
HARD = [key_of(number) for number in range(40, 53)]
HELD_OUT = HARD[:2]
MIX = Mix(20, 11, 8)
FORK = {"multiprocessing_context": "fork"}


def parent(number: int) -> str:
    return HARD[number % 13]


def synthetic_key(number: int) -> str:
    return f"{parent(number)}-{number}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("curriculum")

    def facts(number: int) -> dict[str, Any]:
        params = {"level": LEVELS[number % 3], "strength": 100 - LEVELS[number % 3]}
        return {"parents": [parent(number)], "params": canonical_json(params).decode()}

    real = write_dataset(root / "train")
    return real, write_dataset(root / "discl" / "kept", key_of=synthetic_key, facts=facts)


def table_of(strategy: Strategy = "diverse_to_specific", epochs: int = 4, mode: Mode = "improved") -> Curriculum:
    plan = schedule(strategy, LEVELS, epochs, 3, mode)
    available = dict.fromkeys(LEVELS, 15)
    return curriculum(strategy, plan, MIX, HARD, available=available, seed=5, held_out=HELD_OUT, mode=mode)


def pairs(batch: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(sample["key"], sample["level"]) for sample in batch]


def played(folders: tuple[str, str], table: Curriculum, batch_size: int = 4, **options: Any) -> CurriculumDataset:
    return CurriculumDataset(table, *folders, batch_size, collate=pairs, threads=1, **options)


def whole(loader: StreamLoader, epochs: int) -> list[list[tuple[str, int]]]:
    return [[pair for batch in loader for pair in batch] for _ in range(epochs)]


def test_epochs_have_the_images_of_their_rows(folders: tuple[str, str]) -> None:
    table = table_of()
    loader = StreamLoader(played(folders, table))
    assert loader.dataset.classes == CLASSES
    for row in table.epochs:
        (epoch,) = whole(loader, 1)
        assert len(epoch) == 39
        kinds = Counter(
            "real" if level == 100 and key not in HARD else "hard" if level == 100 else level for key, level in epoch
        )
        if row.levels == (100,):
            assert kinds == {"real": 20, "hard": 19}
        else:
            assert kinds == {"real": 20, "hard": 11, row.levels[0]: 8}
        for key, level in epoch:
            assert key.split("-")[0] not in HELD_OUT
            assert (level == 100) == ("-" not in key)
            if level != 100:
                assert LEVELS[int(key.split("-")[1]) % 3] == level
    with pytest.raises(UserError, match="the curriculum has 4 epochs, from 0 on; there is no epoch 4"):
        list(loader)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_one_sequence(folders: tuple[str, str], world: int) -> None:
    table = table_of()
    alone = whole(StreamLoader(played(folders, table)), 2)
    ranks = [StreamLoader(played(folders, table, 5, rank=rank, world=world)) for rank in range(world)]
    for expected in alone:
        assert merged([list(rank) for rank in ranks]) == expected  # type: ignore[comparison-overlap]


def test_workers_change_nothing(folders: tuple[str, str]) -> None:
    table = table_of()
    loader = StreamLoader(played(folders, table), num_workers=2, persistent_workers=True, **FORK)
    assert whole(loader, 3) == whole(StreamLoader(played(folders, table)), 3)


@pytest.mark.parametrize("batches", [1, 7, 10, 13])
def test_a_run_goes_on_at_any_batch_with_other_ranks(folders: tuple[str, str], batches: int) -> None:
    table = table_of()
    unbroken = [pair for epoch in whole(StreamLoader(played(folders, table)), 2) for pair in epoch]
    loader = StreamLoader(played(folders, table))
    first = [pair for batch in islice(loader, batches) for pair in batch]
    if batches > 10:
        first += [pair for batch in islice(loader, batches - 10) for pair in batch]
    state = json.loads(json.dumps(loader.state_dict()))
    ranks = [StreamLoader(played(folders, table, 3, rank=rank, world=2)) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    while len(first) < len(unbroken):
        first += merged([list(rank) for rank in ranks])  # type: ignore[arg-type]
    assert first == unbroken


def test_a_state_of_another_curriculum_is_refused(folders: tuple[str, str]) -> None:
    state = StreamLoader(played(folders, table_of())).state_dict()
    with pytest.raises(UserError, match="the state was taken with curriculum"):
        StreamLoader(played(folders, table_of("specific_to_diverse"))).load_state_dict(state)
    with pytest.raises(UserError, match="the state was taken with"):
        StreamLoader(played(folders, table_of(), seed=6)).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_adaptive_epoch_has_the_level_that_was_chosen(folders: tuple[str, str], workers: int) -> None:
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": True, **FORK} if workers else {}
    dataset = played(folders, table_of("adaptive"))
    loader = StreamLoader(dataset, **options)
    dataset.choose(0, 30)
    assert {level for _, level in whole(loader, 1)[0]} == {30, 100}
    dataset.choose(1, 100)  # workers that began before see it
    assert {level for _, level in whole(loader, 1)[0]} == {100}
    dataset.choose(2, 50)
    resumed = StreamLoader(played(folders, table_of("adaptive")))
    resumed.load_state_dict(loader.state_dict())
    expected = whole(loader, 1)
    assert {level for _, level in expected[0]} == {50, 100}
    assert whole(resumed, 1) == expected


def test_an_adaptive_epoch_without_a_level_and_levels_of_others_are_refused(folders: tuple[str, str]) -> None:
    dataset = played(folders, table_of("adaptive"))
    with pytest.raises(UserError, match=r"epoch 0 is adaptive: choose one of its levels \[10, 30, 50\] or 100"):
        list(dataset)
    with pytest.raises(UserError, match=r"epoch 0 has the levels \[10, 30, 50, 100\] to choose from, got 70"):
        dataset.choose(0, 70)
    for epoch in (3, 4):
        with pytest.raises(UserError, match=f"epoch {epoch} is no adaptive epoch"):
            dataset.choose(epoch, 30)


def test_other_datasets_are_refused(folders: tuple[str, str]) -> None:
    table = table_of()
    with pytest.raises(UserError, match="does not hold 1 images of the curriculum, nobody first"):
        played(folders, replace(table, hard=(*table.hard, "nobody")))
    with pytest.raises(UserError, match="has no guidance level; give the images that discl made"):
        played((folders[0], folders[0]), table)
    with pytest.raises(UserError, match=r"the curriculum has 20 images an epoch that are not hard, .* holds 9"):
        played(folders, replace(table, others=tuple(key_of(number) for number in range(9))))


def test_a_curriculum_is_read_back_as_it_was_written() -> None:
    for strategy in ("diverse_to_specific", "adaptive", "all_levels", "repeat"):
        for table in (table_of(strategy), replace(table_of(strategy), others=tuple(map(str, range(20))))):
            raw = curriculum_bytes(table)
            assert read_curriculum(raw) == table
            assert curriculum_bytes(read_curriculum(raw)) == raw
            assert raw.count(b'"epoch":') == len(table.epochs) == sum(b'"epoch":' in line for line in raw.splitlines())


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(parsed: Any) -> None:
        for name in path[:-1]:
            parsed = parsed[name]
        parsed[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", value="other 2"), "does not add up: its format is 'other 2'"),
        (_set("strategy", value="upwards"), "is no curriculum: strategy"),
        (_set("seed", value="5"), "is no curriculum: seed"),
        (_set("epochs", value=[]), "is no curriculum: epochs"),
        (_set("epochs", 1, "epoch", value=2), "epoch 2 stands in place 1"),
        (_set("epochs", 1, "levels", value=[30, 30]), "epoch 1 has the levels"),
        (_set("epochs", 1, "levels", value=[130]), r"is no curriculum: epochs\.1\.levels\.0"),
        (_set("epochs", 0, "levels", value=[100]), "at level 100 alone"),
        (_set("epochs", 2, "real", value=21), "unlike epoch 0"),
        (_set("epochs", 2, "tail", value=10), "epoch 2 has 10 hard images of 11"),
        (_set("held_out", value=["nobody"]), "the image nobody is held out and not hard"),
        (_set("others", value=[HARD[3]]), "is hard and one of the others"),
        (_set("others", value=["a"]), "epoch 0 has 20 of 1 other images"),
        (_set("hard", value=[HARD[0], HARD[0]]), "twice"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_add_up_is_refused(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    parsed = json.loads(curriculum_bytes(table_of()))
    change(parsed)
    path = tmp_path / "fixed.json"
    path.write_text(json.dumps(parsed))
    with pytest.raises(UserError, match=rf"^fixed\.json .*{message}.*limbeck run discl"):
        read_curriculum(path)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_curriculum(tmp_path / "none.json")
    with pytest.raises(UserError, match="is no curriculum"):
        read_curriculum(b"{")


def test_a_mix_of_other_hard_images_makes_no_table() -> None:
    with pytest.raises(SynthError, match="the mix is of 11 hard images, there are 13, of which 0 are held out"):
        curriculum("repeat", schedule("repeat", LEVELS, 4, 3), MIX, HARD, available={}, seed=0)


def test_defect_05_a_trainer_needs_the_table_and_the_dataset_and_the_lines_of_the_manual_alone(
    folders: tuple[str, str], repository: Path
) -> None:
    manual = (repository / "docs/format.md").read_text()
    (lines,) = re.findall(r"```python\n(table = json.*?)```", manual, re.S)
    discl = Path(folders[1]).parent
    (discl / "curriculum").mkdir(exist_ok=True)
    (discl / "curriculum/diverse_to_specific.json").write_bytes(curriculum_bytes(table_of()))
    epochs: dict[int, list[str]] = {}
    place: dict[str, Any] = {"json": json, "random": random, "pq": pq, "discl": str(discl), "train": folders[0]}
    exec(lines, {**place, "train_on": epochs.__setitem__})  # as a reader would type them
    for row in table_of().epochs:
        keys = epochs[row.epoch]
        assert len(keys) == 39
        made = [key for key in keys if "-" in key]
        assert len(made) == row.synthetic
        assert {LEVELS[int(key.split("-")[1]) % 3] for key in made} <= set(row.levels)
        assert sum(key in HARD for key in keys) == row.tail
        assert not {key.split("-")[0] for key in keys} & set(HELD_OUT)
    (lines,) = re.findall(r"```python\n(from pipelines.artifacts.curriculum.*?)```", manual, re.S)
    exec(lines.replace("num_workers=4", "num_workers=0").replace("batch_size=128", "batch_size=13"), place)
    assert len(list(place["loader"])) == 3


def test_the_lines_of_the_manual_that_play_an_adaptive_curriculum_alternate(
    folders: tuple[str, str], repository: Path
) -> None:
    (lines,) = re.findall(
        r"```python\n(from synth.discl.progress.*?)```", (repository / "docs/format.md").read_text(), re.S
    )
    plan = schedule("adaptive", LEVELS, 5, 4)
    table = curriculum("adaptive", plan, MIX, HARD, available=dict.fromkeys(LEVELS, 15), seed=5, held_out=HELD_OUT)
    # In the first real epoch level 50 gains most, in the second level 10.
    measured = iter(np.array([[0.1, 0.1, 0.1], [0.2, 0.3, 0.4], [0.4, 0.4, 0.4], [0.8, 0.5, 0.4]]))
    batches: list[list[tuple[str, int]]] = []
    place: dict[str, Any] = {
        "table": table,
        "loader": StreamLoader(played(folders, table, 39)),
        "train_on": batches.append,
    }
    exec(lines, {**place, "levels": np.array(LEVELS), "probabilities": lambda: next(measured)})
    assert [{level for _, level in batch} for batch in batches] == [{100}, {50, 100}, {100}, {10, 100}, {100}]
