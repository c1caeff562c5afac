"""How many images fit on a GPU together: two small trials and a straight line, then one trial to be sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Meter(Protocol):
    """Measures trials: `room` gives the bytes there are for one in all, `peak` runs it and gives the most bytes it took."""

    def room(self) -> int: ...
    def peak(self, run: Callable[[], None]) -> int: ...


class CudaMeter:
    """Reads torch's allocator on one CUDA device; what other processes hold there is not counted as room."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def room(self) -> int:
        """Empty torch's cache and return the bytes that are free or held by this process."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_allocated(self.device)

    def peak(self, run: Callable[[], None]) -> int:
        """Call `run`, wait for the device, and return the most bytes that were allocated meanwhile, the model's included.

        Empties torch's cache and resets its peak counter first.
        """
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def needs_probe(device: torch.device) -> bool:
    """Say whether a batch size must be probed on `device`: on CUDA, where memory is scarce and a batch that does not fit raises."""
    return device.type == "cuda"


def largest_batch(
    run: Callable[[int], None],
    device: torch.device,
    *,
    share: float = 0.85,
    limit: int = 256,
    meter: Meter | None = None,
) -> int:
    """Find the largest batch size, from 1 to `limit`, for which `run(batch size)` stays within `share` of the room.

    Calls `run` with 1, with 2, and with what a straight line through both foretells, until that fits. Rounded down to 1, 2, 3, 4,
    6, 8, 12, 16, ...: small differences in free memory then give the same number.
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
