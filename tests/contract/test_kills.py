"""kill -9 at any instant: nothing half-made is ever visible as whole, and the next run ends as if nothing had been."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext

import pytest

from pipelines.runtime.ownership import strangers
from pipelines.shards.index import INDEX
from pipelines.shards.lint import lint
from pipelines.storage import Storage
from tests.contract.folders import Workplace, assert_same
from tests.contract.limbeck_toy import run_serially

UNITS = 2
#: More changes than the folder of two units sees; the loops stop at the first run that lives through.
MOST_CHANGES = 100


#: A system's file in the output and a person's beside it: both outlive every death and every run.
BESIDE = {"toy/.DS_Store": b"finder", "notes.txt": b"mine"}


def with_neighbours(place: Workplace) -> Workplace:
    place.output.mkdir(exist_ok=True)
    for name, content in BESIDE.items():
        (place.root / name).write_bytes(content)
    return place


def neighbours(place: Workplace) -> dict[str, bytes]:
    return {name: (place.root / name).read_bytes() for name in BESIDE}


def killed_before(forks: ForkServerContext, place: Workplace, change: int) -> bool:
    """Run in a child that dies before its `change`-th change of storage; False if it ended without needing so many."""
    child = forks.Process(target=run_serially, args=(place.job(), change))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def assert_no_lie(place: Workplace) -> None:
    """A reader may find no dataset, or a sound one; never an index that names what is not there."""
    if (place.output / INDEX).exists():
        report = lint(str(place.output))
        assert report.ok, report.findings


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workplace]:
    return lambda: with_neighbours(Workplace(tmp_path_factory.mktemp("killed") / "data", UNITS))


def test_a_first_run_may_die_before_any_change_of_the_disk(
    forks: ForkServerContext, small: Callable[[], Workplace]
) -> None:
    reference = small()
    reference.run()
    for change in range(1, MOST_CHANGES):
        place = small()
        died = killed_before(forks, place, change)
        assert_no_lie(place)
        done = len(list(place.output.glob("ledger/toy-*.json")))
        result = place.run()
        assert_same(place.tree(), reference.tree())
        assert neighbours(place) == BESIDE
        assert not died or result["ran"] == UNITS - done
        if not died:
            assert change > 3 + 4 * UNITS + 5, "the loop has seen plan, units and publication"
            return
    raise AssertionError("the run never ended")


def test_a_run_after_a_change_may_die_before_any_change_of_the_disk(
    forks: ForkServerContext, small: Callable[[], Workplace]
) -> None:
    """The new content has the length of the old, so that no size tells them apart."""
    old, new = small(), small()
    old.run()
    new.edit(1, "1.3", "9.3")
    new.run()
    tar = "shards/toy-000001.tar"
    assert len(old.tree()[tar]) == len(new.tree()[tar])
    assert old.tree()[tar] != new.tree()[tar]
    for change in range(1, MOST_CHANGES):
        place, reverted = small(), small()
        for folder in (place, reverted):
            folder.run()
            folder.edit(1, "1.3", "9.3")
            died = killed_before(forks, folder, change)
            assert_no_lie(folder)
        place.run()
        assert_same(place.tree(), new.tree())
        reverted.edit(1, "9.3", "1.3")
        reverted.run()
        assert_same(reverted.tree(), old.tree())
        assert neighbours(place) == neighbours(reverted) == BESIDE
        if not died:
            return
    raise AssertionError("the run never ended")


def test_a_death_in_one_run_leaves_nothing_that_the_next_plan_cannot_clear(
    forks: ForkServerContext, small: Callable[[], Workplace]
) -> None:
    """Dies with both units planned; the next plan has one of them."""
    reference = small()
    (reference.source / "001.txt").unlink()
    reference.run()
    for change in range(1, MOST_CHANGES):
        place = small()
        died = killed_before(forks, place, change)
        (place.source / "001.txt").unlink()
        place.run()
        assert_same(place.tree(), reference.tree())
        assert neighbours(place) == BESIDE
        if not died:
            return
    raise AssertionError("the run never ended")


def test_the_marker_follows_its_files_and_the_index_follows_all(
    forks: ForkServerContext, small: Callable[[], Workplace]
) -> None:
    """Which files exist at each instant of a run: tar, sidecar, other files, marker; then the index; then the seal."""
    order: dict[str, int] = {}
    for change in range(1, MOST_CHANGES):
        place = small()
        died = killed_before(forks, place, change)
        assert not strangers(Storage(place.output), Storage(place.output).list()), (
            f"nobody owns a file at change {change}"
        )
        for name in place.tree():
            order.setdefault(name, change)
        if not died:
            break
    for unit in ("toy-000000", "toy-000001"):
        tar, sidecar = order[f"shards/{unit}.tar"], order[f"meta/{unit}.parquet"]
        assert tar < sidecar < order[f"notes/{unit}.txt"] < order[f"ledger/{unit}.json"] < order["shards/sizes.json"]
    described = ("shards/sizes.json", "classes.json", "stats.json", "dataset.json")
    assert max(order[name] for name in described) < order["index.json"] < order["stage.json"]


def test_a_run_may_die_at_any_instant(
    forks: ForkServerContext, workplaces: Callable[[], Workplace], clean: dict[str, bytes]
) -> None:
    """Twenty-four deaths by the clock, several of them in a row on the way to one folder."""
    clock = random.Random(20240607)
    deaths = 0
    while deaths < 24:
        place = workplaces()
        place.delay(0.004)
        for _ in range(3):
            child = forks.Process(target=run_serially, args=(place.job(),))
            child.start()
            child.join(clock.uniform(0.02, 0.5))
            child.kill()
            child.join()
            deaths += child.exitcode == -signal.SIGKILL
            assert_no_lie(place)
        place.delay(0)
        place.run()
        assert_same(place.tree(), clean)


def test_units_that_were_finished_before_a_death_do_not_run_again(
    forks: ForkServerContext, workplace: Workplace, clean: dict[str, bytes]
) -> None:
    workplace.delay(0.01)
    child = forks.Process(target=run_serially, args=(workplace.job(),))
    child.start()
    while len(finished := list(workplace.output.glob("ledger/toy-*.json"))) < 3:
        time.sleep(0.005)
    child.kill()
    child.join()
    finished = list(workplace.output.glob("ledger/toy-*.json"))
    workplace.ran()
    workplace.delay(0)
    workplace.run()
    assert set(workplace.ran()) == {f"toy-{index:06d}" for index in range(8)} - {path.stem for path in finished}
    assert_same(workplace.tree(), clean)


def test_scratch_outlives_a_death_and_ends_with_the_stage(workplace: Workplace, clean: dict[str, bytes]) -> None:
    workplace.edit(5, "keep", "raise")
    with pytest.raises(Exception, match="no such sample"):
        workplace.run()
    scratch = workplace.output / ".partial"
    kept = list(scratch.glob("toy-000005-*/index.json"))
    assert len(kept) == 1
    kept[0].write_text("half way")
    with pytest.raises(Exception, match="no such sample"):
        workplace.run()
    assert kept[0].read_text() == "half way"
    workplace.edit(5, "raise", "keep")
    workplace.run()
    assert not scratch.exists()
    assert_same(workplace.tree(), clean)


def test_scratch_is_not_handed_to_a_unit_with_other_inputs(workplace: Workplace) -> None:
    workplace.edit(5, "keep", "raise")
    for before, after in (("x5", "y5"), ("y5", "z5")):
        with pytest.raises(Exception, match="no such sample"):
            workplace.run()
        workplace.edit(5, before, after)
    assert len(list(workplace.output.glob(".partial/toy-000005-*"))) == 2
