"""How many images fit on a GPU together: two small trials and a straight line, then one trial to be sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Meter(Protocol):
    """Measures a trial. `room` is the bytes there are for it in all; `peak` runs it and gives the bytes it took at most."""

    def room(self) -> int: ...
    def peak(self, run: Callable[[], None]) -> int: ...


class CudaMeter:
    """torch's allocator on one device; what others hold there is not counted as room."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def room(self) -> int:
        """Free memory and what this process holds."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_allocated(self.device)

    def peak(self, run: Callable[[], None]) -> int:
        """The most that was allocated while `run` ran, the model included."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def needs_probe(device: torch.device) -> bool:
    """Whether memory there is scarce, and a batch that does not fit fails cleanly."""
    return device.type == "cuda"


def largest_batch(
    run: Callable[[int], None],
    device: torch.device,
    *,
    share: float = 0.85,
    limit: int = 256,
    meter: Meter | None = None,
) -> int:
    """The largest batch for which `run(batch)` stays within `share` of the room, at most `limit`; at least 1.

    Rounded down to 1, 2, 3, 4, 6, 8, 12, 16, ...: small differences in free memory then give the same number.
    """
    measure = meter or CudaMeter(device)
    one, two = measure.peak(lambda: run(1)), measure.peak(lambda: run(2))
    each = max(two - one, 1)
    size = _round(max(1, min(limit, 1 + int(share * measure.room() - one) // each)))
    while size > 2:
        try:
            measure.peak(lambda: run(size))  # noqa: B023 (called at once)
            return size
        except torch.cuda.OutOfMemoryError:
            size = _round(size * 3 // 4)
    return size


def _round(size: int) -> int:
    power = 1 << (size.bit_length() - 1)
    return power + power // 2 if power > 1 and size >= power + power // 2 else power
