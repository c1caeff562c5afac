"""Seeds derive from names, and the same name has the same seed for ever."""

from __future__ import annotations

import subprocess
import sys

from pipelines.seeds import seed_for


def test_seeds_are_pinned_for_ever() -> None:
    assert seed_for(0, "cda", "slot 3", "recover") == 5867523726222935393
    assert seed_for(0, "squeeze", "teacher", "init") == 3238173148354250107
    assert seed_for(7, "ingest", "", "") == 2919976179348615960


def test_every_argument_matters() -> None:
    seeds = {
        seed_for(*arguments)
        for arguments in (
            (0, "a", "b", "c"),
            (1, "a", "b", "c"),
            (0, "x", "b", "c"),
            (0, "a", "x", "c"),
            (0, "a", "b", "x"),
            (0, "ab", "", "c"),
            (0, "", "ab", "c"),
        )
    }
    assert len(seeds) == 7


def test_seeds_fit_where_libraries_want_a_positive_int64() -> None:
    assert all(0 <= seed_for(0, "stage", str(index), "") < 2**63 for index in range(2000))
    assert max(seed_for(0, "stage", str(index), "") for index in range(2000)) > 2**62


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    program = "from pipelines.seeds import seed_for; print(seed_for(3, 'cda', 'käfer', 'noise'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{seed_for(3, 'cda', 'käfer', 'noise')}\n".encode()}
