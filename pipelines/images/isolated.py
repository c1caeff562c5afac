"""The process in which foreign bytes meet decoders: `python -m pipelines.images.isolated FD`. `isolation` talks to it.

It imports the decoders once, forks a copy of itself for every decoder that is asked for (milliseconds), and says how one
ended. Decoders can be killed at any time without harm. All of them end when the process that asked for them does.

A decoder's memory is limited, and each picture's CPU time: the kernel ends what no check of ours would come back from.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import cv2

from pipelines.images.params import ImageParams
from pipelines.images.process import Processed, decode_rgb, process
from pipelines.outcomes import Outcome

#: Messages to a decoder: store these pictures, only see whether they are sound, you may have the memory.
STORE, CHECK, GRANTED = b"S", b"C", b"G"
#: Messages from a decoder: may I have this much memory, here is what became of it, the same and the bytes that came stay.
NEED, DONE, SAME = b"N", b"D", b"="
#: Messages to the server: fork a decoder on the socket that comes along, end the decoder of this number.
FORK, END = b"F", b"E"
ASK, ANSWER = struct.Struct("<cQ"), struct.Struct("<cQQ")
NUMBER = struct.Struct("<q")
#: Pictures that take less memory than this do not ask for it.
SMALL = 32 << 20
_AT_ONCE = 1 << 16
#: Seconds between looks at whether the process that started the server is still there.
_LOOK = 5.0
_PR_SET_PDEATHSIG = 1


class Stream:
    """Messages over a socket with few system calls: what comes is taken as it comes, and kept until it is asked for."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self._held, self._at = b"", 0

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes; EOFError when the other end is gone."""
        missing = size - (len(self._held) - self._at)
        if missing > 0:
            parts = [self._held[self._at :]]
            while missing > 0:
                part = self.link.recv(max(missing, _AT_ONCE))
                if not part:
                    raise EOFError
                parts.append(part)
                missing -= len(part)
            self._held, self._at = b"".join(parts), 0
        self._at += size
        return self._held[self._at - size : self._at]

    def send(self, *parts: bytes) -> None:
        """All parts, in one go where the socket takes them."""
        sent = self.link.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                self.link.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))


def serve(control: socket.socket) -> None:
    """Fork decoders and report their ends until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us; we end with it
    parent = os.getppid()
    control.settimeout(_LOOK)
    while True:
        try:
            message, handles, _, _ = socket.recv_fds(control, 1 + NUMBER.size, 1)
        except TimeoutError:
            if os.getppid() != parent:
                return
            continue
        if not message:
            return
        if message[:1] == FORK:
            number = os.fork()
            if number == 0:
                control.close()
                _decoder(socket.socket(fileno=handles[0]))
            os.close(handles[0])
            control.sendall(NUMBER.pack(number))
        else:
            (number,) = NUMBER.unpack(message[1:])
            os.kill(number, signal.SIGKILL)  # not yet waited for, so the number is still its own
            control.sendall(NUMBER.pack(os.waitpid(number, 0)[1]))


def _decoder(link: socket.socket) -> NoReturn:
    """A decoder's life: pictures in, results out, until the link closes. Never returns."""
    code = 1
    try:
        _end_with_parent()
        stream = Stream(link)
        length = NUMBER.unpack(stream.receive(NUMBER.size))[0]
        params = ImageParams.model_validate_json(stream.receive(length))
        _limit_memory(params.limits.max_memory)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)  # libraries print what they think of a file; the outcome says it
        while True:
            kind, count = ASK.unpack(stream.receive(ASK.size))
            lengths = [NUMBER.unpack(stream.receive(NUMBER.size))[0] for _ in range(count)]
            raws = [
                stream.receive(length) for length in lengths
            ]  # all, before there is an answer that nobody reads yet
            for raw in raws:
                # It counts CPU time, so that it can be left running between pictures.
                signal.setitimer(signal.ITIMER_PROF, params.limits.max_seconds)
                _answer(stream, _result(kind, raw, params, stream), raw)
            del raws, raw
    except (EOFError, OSError):
        code = 0
    finally:
        os._exit(code)


def _result(kind: bytes, raw: bytes, params: ImageParams, stream: Stream) -> Processed | Outcome | None:
    def reserve(need: int) -> None:
        if need > SMALL:
            stream.send(ANSWER.pack(NEED, need, 0))
            stream.receive(1)

    result: Processed | Outcome | None
    if kind == STORE:
        result = process(raw, params, reserve)
    else:
        shown = decode_rgb(raw, params.limits, reserve)
        result = shown if isinstance(shown, Outcome) else None
    if isinstance(result, Outcome) and result.reason == "out_of_memory":
        # Here it was our limit that was met: the header did not say what decoding takes.
        return replace(result, error_class="policy", detail="decoding takes more memory than its header says")
    return result


def _answer(stream: Stream, result: Processed | Outcome | None, raw: bytes) -> None:
    """A line of JSON, which cannot harm who reads it, and the bytes to store unless they are those that came."""
    fields = () if result is None else result.__dataclass_fields__
    form = {name: getattr(result, name) for name in fields if name != "data"}
    said = json.dumps(form).encode()
    data = result.data if isinstance(result, Processed) else b""
    if data is raw:
        stream.send(ANSWER.pack(SAME, len(said), 0), said)
    else:
        stream.send(ANSWER.pack(DONE, len(said), len(data)), said, data)


def _end_with_parent() -> None:
    """Have the kernel end this decoder when the server ends, even if it never comes out of a decoder again."""
    if sys.platform == "linux":
        server = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(0)
        # If memory runs out on the machine, a decoder is the least loss.
        Path("/proc/self/oom_score_adj").write_text("500")


def _limit_memory(most: int) -> None:
    """Address space: what is mapped now and the limit, with room for buffers that are reserved and not filled."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        room = mapped + most + most // 4 + (128 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))


def main() -> None:
    """Warm up what decoders import late, then serve."""
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # Pillow warns about damage that it then tells as well
    from PIL import AvifImagePlugin, Image

    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Who asked may be killed with an answer unread, which resets the connection: no error, but the end.
    with socket.socket(fileno=int(sys.argv[1])) as control, suppress(ConnectionError):
        control.sendall(NUMBER.pack(os.getpid()))
        serve(control)


if __name__ == "__main__":
    main()
