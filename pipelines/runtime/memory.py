"""How a process that computes handles the memory that it frees."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Free bytes at the top of the heap that are kept, and the size from which a block is mapped by itself: the most that glibc takes.
_KEPT, _MAPPED = 1 << 30, 32 << 20


def keep_freed_memory() -> None:
    """Make this process's malloc keep what is freed, up to a gigabyte, instead of handing it back to the system.

    A training step allocates the same megabytes again and again. By default glibc returns them each time, and the kernel clears
    every page anew: a quarter of the CPU time of a small network. Decides no byte of any result; does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
