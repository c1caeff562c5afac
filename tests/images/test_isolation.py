"""Decoders in processes of their own: the same results, and an end to what would not end by itself."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from pipelines.images import ImageLimits, ImageParams, Processed, process
from pipelines.images.isolation import Decoders, DecodersClosed
from pipelines.outcomes import Outcome
from tests.faults.kinds import cut, sound
from tests.images.making import encoded, picture

#: A small picture that takes many seconds with these.
SLOW = ImageParams(format="webp", resize="exact", size=7000, upscale=True)
PHOTO = encoded(picture(), "JPEG")


def decoding() -> list[psutil.Process]:
    """The decoders of this process: children of its server."""
    found = [server.children() for server in psutil.Process().children() if "isolated" in " ".join(server.cmdline())]
    return [child for children in found for child in children]


def until(true: Callable[[], object]) -> None:
    """Wait for something that happens soon."""
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def busy() -> psutil.Process | None:
    """A decoder that has a picture in hand, if there is one."""
    return next((child for child in decoding() if sum(child.cpu_times()[:2]) > 0.3), None)


@pytest.mark.parametrize("params", [ImageParams(), ImageParams(format="keep", resize="pad", size=64)])
def test_the_results_are_those_of_this_process(params: ImageParams) -> None:
    raws = list(sound().values()) + [cut(raw, 0.7) for raw in sound().values()] + [b"", b"<html>"]
    with Decoders(params, 3) as decoders, ThreadPoolExecutor(3) as pool:
        assert list(pool.map(decoders.process, raws)) == [process(raw, params) for raw in raws]
        assert decoders.check(raws[0]) is None
        refused = decoders.check(b"")
        assert refused is not None
        assert refused.reason == "empty"
    assert not decoding()


def test_bytes_that_are_kept_are_those_that_were_given_and_do_not_travel_back() -> None:
    odd = PHOTO[:-2] + bytes(7) + PHOTO[-2:]  # a camera's bytes before the end: they go, so these are others
    raws = [PHOTO, odd, PHOTO[:200], encoded(picture(), "BMP"), PHOTO + b"more"]
    params = ImageParams(format="keep")
    with Decoders(params, 1) as decoders:
        made = decoders.process_all(raws)
    assert made == [process(raw, params) for raw in raws]
    stored = [result.data if isinstance(result, Processed) else None for result in made]
    assert [data is raw for data, raw in zip(stored, raws, strict=True)] == [True, False, False, False, True]
    assert stored[1] == PHOTO


def test_a_picture_that_takes_too_long_is_ended_and_the_next_one_is_not() -> None:
    limits = ImageLimits(max_seconds=0.2)
    with Decoders(SLOW.model_copy(update={"limits": limits}), 1) as decoders:
        outcome = decoders.process(PHOTO)
        assert isinstance(outcome, Outcome)
        assert (outcome.status, outcome.reason, outcome.error_class) == ("failed", "too_slow", "policy")
        assert decoders.process(b"") == process(b"", SLOW)


def test_one_bad_picture_of_several_takes_none_with_it() -> None:
    params = SLOW.model_copy(update={"limits": ImageLimits(max_seconds=0.5, max_pixels=60_000_000)})
    quick = [b"", encoded(picture(8, 8), "GIF")[:20], b"text"]
    with Decoders(params, 1) as decoders:
        found = decoders.process_all([*quick, PHOTO, *quick])
    assert [made.reason if isinstance(made, Outcome) else "kept" for made in found] == [
        *(process(raw, params).reason for raw in quick),  # type: ignore[union-attr]
        "too_slow",
        *(process(raw, params).reason for raw in quick),  # type: ignore[union-attr]
    ]


def test_a_stopped_machine_loses_no_picture() -> None:
    with Decoders(ImageParams(limits=ImageLimits(max_seconds=0.5)), 1) as decoders:
        decoders.process(PHOTO)
        (decoder,) = decoding()
        decoder.suspend()
        wake = threading.Timer(1.5, decoder.resume)
        wake.start()
        assert isinstance(decoders.process(PHOTO), Processed)
        wake.join()


def test_a_decoder_that_crashes_twice_fails_its_picture_and_no_other() -> None:
    with Decoders(SLOW, 1) as decoders, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decoders.process, PHOTO)
        for _ in range(2):
            until(busy)
            victim = busy()
            assert victim is not None
            victim.send_signal(signal.SIGSEGV)
            until(lambda gone=victim: not gone.is_running())
        outcome = waiting.result()
        assert isinstance(outcome, Outcome)
        assert (outcome.reason, outcome.error_class) == ("decoder_died", "permanent")
        assert "SIGSEGV" in outcome.detail
        assert decoders.process(b"") == process(b"", SLOW)


def test_a_decoder_that_is_killed_from_outside_costs_nothing() -> None:
    params = ImageParams(format="webp", resize="exact", size=3000, upscale=True)
    with Decoders(params, 1) as decoders, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decoders.process, PHOTO)
        until(busy)
        server = psutil.Process(decoding()[0].ppid())
        decoding()[0].kill()
        until(busy)
        server.kill()  # with all that it forked
        assert waiting.result() == process(PHOTO, params)


def test_closing_ends_what_is_under_way() -> None:
    decoders = Decoders(SLOW, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decoders.process, PHOTO)
        until(busy)
        decoders.close()
        with pytest.raises(DecodersClosed):
            waiting.result(timeout=20)
    assert not decoding()


def test_big_pictures_wait_for_one_another_and_one_that_is_too_big_is_refused() -> None:
    big = encoded(picture(2400, 2000), "PNG")
    with Decoders(ImageParams(limits=ImageLimits(max_memory=64 << 20)), 2) as decoders, ThreadPoolExecutor(2) as pool:
        assert all(isinstance(made, Processed) for made in pool.map(decoders.process, [big] * 4))
    outcome = process(big, ImageParams(limits=ImageLimits(max_memory=32 << 20)))
    assert isinstance(outcome, Outcome)
    assert (outcome.reason, outcome.error_class) == ("too_much_memory", "policy")


def test_memory_that_the_header_did_not_announce_is_refused() -> None:
    """The limit of the process, met here by work that is large and not by a lie: its room is a quarter above the limit."""
    with Decoders(ImageParams(limits=ImageLimits(max_memory=2**20)), 1) as decoders:
        decoders.process(b"")
        (decoder,) = decoding()
        soft, _ = decoder.rlimit(psutil.RLIMIT_AS)
        assert 0 < soft < decoder.memory_info().vms + (200 << 20)
        assert decoder.rlimit(psutil.RLIMIT_CORE) == (0, 0)


SCRIPT = """
import sys, threading
from pipelines.images import ImageParams
from pipelines.images.isolation import Decoders
decoders = Decoders(ImageParams(format="webp", resize="exact", size=7000, upscale=True), 1)
decoders.process(b"")
print("ready", flush=True)
decoders.process(sys.stdin.buffer.read())
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_process_that_asked(sent: signal.Signals) -> None:
    asking = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert asking.stdin is not None
    assert asking.stdout is not None
    assert asking.stdout.readline() == b"ready\n"
    family = psutil.Process(asking.pid).children(recursive=True)
    assert len(family) == 2
    asking.stdin.write(PHOTO)
    asking.stdin.close()
    until(lambda: sum(family[1].cpu_times()[:2]) > 0.3)
    os.kill(asking.pid, sent)
    asking.wait(timeout=20)
    until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family))
    asking.stdout.close()


def test_a_server_whose_asker_is_gone_ends_without_a_word() -> None:
    """Answers that nobody read were told as a traceback on the terminal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipelines.images.isolated", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        select.select([ours], [], [], 60)  # its first word is there, and stays unread
        ours.close()
        assert server.communicate(timeout=60)[1] == b""
        assert server.returncode == 0
