"""What the hostile corpus costs: lives, memory and time.

    python -m tests.bench.hostile

Every file goes through `ingest`'s decoders: two at a time for the memory, which is the largest sum of the proportional
set sizes of this process and all below it, over what this process held before; and one at a time for the CPU seconds of
the slowest.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from pipelines.images import ImageParams, Processed
from pipelines.images.isolation import Decoders
from tests.faults.corpus import hostile

#: Outcomes that say that something went wrong with us and not with the file.
CRASHES = frozenset({"decoder_died", "decoder_killed", "internal_error"})


@dataclass
class Cost:
    """What trying all files took; `peak` in bytes, `slowest` in seconds of CPU time of the decoder."""

    tried: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    crashed: list[str] = field(default_factory=list)
    peak: int = 0
    slowest: float = 0.0
    slowest_name: str = ""


def measure(params: ImageParams | None = None) -> Cost:
    """Try every file with two decoders."""
    cost, files = Cost(), hostile()
    process, done = psutil.Process(), threading.Event()
    before = process.memory_full_info().pss

    def watch() -> None:
        while not done.wait(0.1):
            held = 0
            for member in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    held += member.memory_full_info().pss
            cost.peak = max(cost.peak, held - before)

    def one(name: str) -> None:
        result = decoders.process(files[name])
        reason = "kept" if isinstance(result, Processed) else result.reason
        cost.tried += 1
        cost.reasons[reason] += 1
        if reason in CRASHES:
            cost.crashed.append(f"{name}: {reason}")

    watcher = threading.Thread(target=watch)
    with Decoders(params or ImageParams(), 2) as decoders, ThreadPoolExecutor(2) as pool:
        watcher.start()
        list(pool.map(one, files))
    done.set()
    watcher.join()
    with Decoders(params or ImageParams(), 1) as decoders:
        for name, raw in files.items():
            spent = decoder_seconds(process)
            decoders.process(raw)
            took = decoder_seconds(process) - spent
            if took > cost.slowest:
                cost.slowest, cost.slowest_name = took, name
    return cost


def decoder_seconds(process: psutil.Process) -> float:
    """CPU seconds of everything below this process's children: the decoders, not the server that they are forked from."""
    total = 0.0
    for server in process.children():
        for decoder in server.children():
            with suppress(psutil.Error):
                total += sum(decoder.cpu_times()[:2])
    return total


def main() -> None:
    cost = measure()
    print(f"tried {cost.tried}, survived {cost.tried - len(cost.crashed)}, crashes {len(cost.crashed)}")
    for line in cost.crashed:
        print("  " + line)
    print(f"peak memory {cost.peak / 1e6:.0f} MB with two threads")
    print(f"slowest {cost.slowest:.1f} s of CPU time ({cost.slowest_name})")
    print(", ".join(f"{reason} {count}" for reason, count in cost.reasons.most_common()))


if __name__ == "__main__":
    main()
