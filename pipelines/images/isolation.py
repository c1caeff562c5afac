"""Decoding in processes of their own, so that no picture can take the memory, the time or the life of a worker.

`Decoders` is what a stage uses: `process` as in `pipelines.images`, from several threads, with the same results. One warm
server process (`isolated`) is kept by each process that uses it; decoders are forked from it, one per thread at work.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pipelines
from pipelines.images import isolated
from pipelines.images.isolated import ANSWER, ASK, CHECK, END, FORK, GRANTED, NEED, NUMBER, SAME, STORE, Stream
from pipelines.images.params import ImageParams
from pipelines.images.process import Processed, too_slow
from pipelines.outcomes import Outcome, failed

#: Signals by which a process ends itself: what the picture did. Others come from outside and say nothing about it.
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
_OUT_OF_TIME = frozenset({signal.SIGPROF, signal.SIGXCPU})
#: How often a picture may bring its decoder down, and how often others may.
_MOST_CRASHES, _MOST_KILLS = 2, 5


Result = Processed | Outcome | None


class DecoderDied(Exception):
    """A decoder ended with a picture in hand; `status` is as `os.waitpid` gives it, None where nobody knows."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.signal = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0


class DecodersClosed(Exception):
    """The decoders were closed while a picture was under way: the unit is over."""


class Decoders:
    """At most `count` decoders for pictures with `params`; safe from several threads. To be closed, or used with `with`."""

    def __init__(self, params: ImageParams, count: int) -> None:
        self._params = params
        self._form = params.model_dump_json().encode()
        self._slots = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()
        self._memory = _Memory(params.limits.max_memory)
        self._closed = False

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def process(self, raw: bytes) -> Processed | Outcome:
        """`pipelines.images.process` with these parameters, or the outcome of a decoder that did not live to tell."""
        return self.process_all([raw])[0]

    def process_all(self, raws: Sequence[bytes]) -> list[Processed | Outcome]:
        """`process` for several pictures, one after another in one decoder: small ones cost less that way."""
        results = self._ask(STORE, raws)
        return [result for result in results if result is not None]  # which all are

    def check(self, raw: bytes) -> Outcome | None:
        """Why a picture cannot be decoded; None when it can."""
        (result,) = self._ask(CHECK, [raw])
        assert not isinstance(result, Processed)
        return result

    def close(self) -> None:
        """End all decoders at once; threads that wait for one get `DecodersClosed`."""
        with self._lock:
            self._closed = True
            doomed, self._all, self._idle = self._all, set(), []
        self._memory.close()
        for decoder in doomed:
            decoder.end()

    def _ask(self, kind: bytes, raws: Sequence[bytes]) -> list[Result]:
        """A result for each. Answers come one by one: the first that is missing is of the picture that a death is about."""
        results: list[Result] = []
        crashes = kills = 0
        with self._slots:
            while len(results) < len(raws):
                decoder, answered = None, len(results)
                try:
                    decoder = self._borrow()
                    decoder.ask(kind, raws[answered:], self._memory, results)
                except DecoderDied as death:
                    self._discard(decoder)
                    if len(results) > answered:
                        crashes = kills = 0
                    crashes += death.signal in _CRASHES
                    kills += death.signal not in _CRASHES
                    outcome = self._verdict(death, crashes, kills)
                    if outcome is not None:
                        results.append(outcome)
                        crashes = kills = 0
                else:
                    with self._lock:
                        self._idle.append(decoder)
        return results

    def _verdict(self, death: DecoderDied, crashes: int, kills: int) -> Outcome | None:
        """What a picture comes to whose decoder died, so often by itself and so often not; None if it is to be tried again."""
        if death.signal in _OUT_OF_TIME:
            return too_slow(self._params.limits)
        if crashes >= _MOST_CRASHES:
            name = signal.Signals(death.signal).name
            return failed("decoder_died", detail=f"its decoder ended with {name}, {crashes} times")
        if kills >= _MOST_KILLS:
            detail = "its decoder was killed from outside each time; the machine may be short of memory"
            return failed("decoder_killed", "transient", detail)
        return None

    def _borrow(self) -> _Decoder:
        with self._lock:
            if self._closed:
                raise DecodersClosed
            if self._idle:
                return self._idle.pop()
        decoder = _Decoder(self._form)
        with self._lock:
            if not self._closed:
                self._all.add(decoder)
                return decoder
        decoder.end()
        raise DecodersClosed

    def _discard(self, decoder: _Decoder | None) -> None:
        with self._lock:
            if self._closed:
                raise DecodersClosed
            if decoder is not None:
                self._all.discard(decoder)


class _Decoder:
    """One decoder process, and the link to it."""

    def __init__(self, form: bytes) -> None:
        self._server = _server()
        link, theirs = socket.socketpair()
        self._stream = Stream(link)
        with theirs:
            self._number = self._server.fork(theirs)
        self._ended = threading.Lock()
        with suppress(OSError):  # if it is gone already, the first picture will notice
            self._stream.send(NUMBER.pack(len(form)), form)

    def ask(self, kind: bytes, raws: Sequence[bytes], memory: _Memory, results: list[Result]) -> None:
        """Append what became of each picture; `DecoderDied` when the next will not be known."""
        granted = 0
        try:
            self._stream.send(ASK.pack(kind, len(raws)), *(NUMBER.pack(len(raw)) for raw in raws), *raws)
            for raw in raws:
                while True:
                    message, first, second = ANSWER.unpack(self._stream.receive(ANSWER.size))
                    if message != NEED:
                        break
                    granted = memory.take(first)
                    self._stream.send(GRANTED)
                form = json.loads(self._stream.receive(first))
                data = raw if message == SAME else self._stream.receive(second)
                memory.give(granted)
                granted = 0
                results.append(_result(form, data))
        except (EOFError, OSError):
            raise DecoderDied(self.end()) from None
        finally:
            memory.give(granted)

    def end(self) -> int | None:
        """End the process, if it has not ended; its wait status the first time, None where nobody knows."""
        if not self._ended.acquire(blocking=False):
            return None
        with suppress(OSError):
            self._stream.link.shutdown(socket.SHUT_RDWR)
        status = self._server.end(self._number)
        self._stream.link.close()
        return status


def _result(form: dict[str, Any], data: bytes) -> Result:
    if not form:
        return None
    return Outcome(**form) if "status" in form else Processed(data=data, **form)


class _Server:
    """The warm process that decoders are forked from."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        control, theirs = socket.socketpair()
        self._control, self._answers = control, Stream(control)
        root = str(Path(pipelines.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", isolated.__name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **single},
            )
        try:
            self._answers.receive(NUMBER.size)
        except (EOFError, OSError):
            code = self._process.wait()
            raise RuntimeError(f"the process that decodes pictures did not start (exit code {code})") from None

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def fork(self, link: socket.socket) -> int:
        """A new decoder's process number; `DecoderDied` when the server was killed, so that the next one is another's."""
        try:
            with self._lock:
                socket.send_fds(self._control, [FORK + NUMBER.pack(0)], [link.fileno()])
                return int(NUMBER.unpack(self._answers.receive(NUMBER.size))[0])
        except (EOFError, OSError):
            self._process.kill()
            self._process.wait()
            raise DecoderDied(None) from None

    def end(self, number: int) -> int | None:
        """End a decoder; its wait status, None when the server is gone and the decoder with it."""
        try:
            with self._lock:
                self._control.sendall(END + NUMBER.pack(number))
                return int(NUMBER.unpack(self._answers.receive(NUMBER.size))[0])
        except (EOFError, OSError):
            return None


_starting = threading.Lock()
_running: list[_Server] = []


def _server() -> _Server:
    """This process's server; started when there is none, or when it was killed."""
    with _starting:
        if _running and _running[0].alive:
            return _running[0]
        _running.clear()  # one that belongs to the process we were forked from is that process's affair
        _running.append(_Server())
        return _running[0]


class _Memory:
    """Memory that pictures in hand may take together. Who asks for more than is left waits, unless nobody holds any."""

    def __init__(self, total: int) -> None:
        self._total, self._held = total, 0
        self._changed = threading.Condition()
        self._closed = False

    def take(self, size: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + size <= self._total)
            if self._closed:
                raise DecodersClosed
            self._held += size
            return size

    def give(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
