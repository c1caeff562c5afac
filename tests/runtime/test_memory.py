"""A process that computes keeps the memory that it frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Allocates and frees four blocks of 16 MB fifty times; prints how many pages the kernel had to hand out meanwhile.
PROGRAM = """
import resource, sys
if sys.argv[1:]:
    from pipelines.runtime.memory import keep_freed_memory
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [bytearray(16 << 20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(*arguments: str) -> int:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc takes the setting")
def test_the_kernel_hands_out_the_same_pages_once() -> None:
    assert pages("keep") < pages() / 5
