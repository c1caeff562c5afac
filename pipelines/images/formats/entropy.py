"""Whether the Huffman-coded data of a baseline JPEG is whole, bit by bit (ITU T.81 annex F.2). Slow, and rarely needed.

libjpeg's warnings settle nearly every file. Two kinds are left. Bytes before the end marker may have been put there by a
camera, or be what is left over when damage made the decoder finish early. And sampling factors that the strict decoder
does not take would otherwise go to decoders that overlook damage. Here every code must exist, no block may run over, no
DC value may leave its range, restart markers must stand where they belong, and the last byte must be padded evenly.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from pipelines.images.formats.base import Damage, Notes
from pipelines.images.formats.jpeg import SOS, Segment, is_frame, segments

#: A longer stream is not walked: it would take half a minute and more.
MOST_BYTES = 8 << 20
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_STOP = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: What a DC coefficient of 8-bit samples can be after dequantisation, rounding aside.
_DC_RANGE = 1024

Table = list[tuple[int, int]]


@dataclass(slots=True)
class _Component:
    across: int
    down: int
    quantiser: int
    dc: int = 0
    ac: int = 0


@dataclass(slots=True)
class _State:
    height: int = 0
    width: int = 0
    components: dict[int, _Component] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    interval: int = 0


def data_end(raw: bytes) -> int:
    """Where the last scan's data ends, as its decoder finds it; `Damage` when any scan is not whole."""
    if len(raw) > MOST_BYTES:
        raise Damage("corrupt", "there are extra bytes before the end, and the JPEG is too large to tell why")
    try:
        return _walk(raw)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise error if isinstance(error, Damage) else Damage("corrupt", "a segment of the JPEG breaks off") from None


def _walk(raw: bytes) -> int:
    state, end = _State(), 0
    for segment in segments(raw, Notes()):
        if is_frame(segment.marker):
            if segment.marker not in (0xC0, 0xC1):
                raise Damage("corrupt", "there are extra bytes before the end of a JPEG that is not baseline")
            _read_frame(raw, segment, state)
        elif segment.marker == 0xC4:
            _read_huffman(raw[segment.body : segment.end], state)
        elif segment.marker == 0xDB:
            _read_quantisers(raw[segment.body : segment.end], state)
        elif segment.marker == 0xDD:
            (state.interval,) = struct.unpack_from(">H", raw, segment.body)
        elif segment.marker == SOS:
            end = _walk_scan(raw, segment, state)
    return end


def _read_frame(raw: bytes, segment: Segment, state: _State) -> None:
    _, state.height, state.width, count = struct.unpack_from(">BHHB", raw, segment.body)
    for place in range(count):
        name, factors, quantiser = raw[segment.body + 6 + 3 * place : segment.body + 9 + 3 * place]
        if not (1 <= factors >> 4 <= 4 and 1 <= factors & 15 <= 4):
            raise Damage("corrupt", "a sampling factor of the JPEG is out of range")
        state.components[name] = _Component(factors >> 4, factors & 15, quantiser)


def _read_huffman(body: bytes, state: _State) -> None:
    """Tables by class and number, each as 65 536 entries (code length, symbol) for the next 16 bits."""
    while len(body) >= 17:
        counts, symbols = body[1:17], body[17 : 17 + sum(body[1:17])]
        table: Table = []
        place = 0
        for length, count in enumerate(counts, start=1):
            for symbol in symbols[place : place + count]:
                table += [(length, symbol)] * (1 << 16 - length)
            place += count
        if len(table) > 1 << 16 or place != len(symbols):
            raise Damage("corrupt", "a Huffman table of the JPEG has too many codes")
        table += [(0, 0)] * ((1 << 16) - len(table))
        state.tables[body[0]] = table
        body = body[17 + place :]


def _read_quantisers(body: bytes, state: _State) -> None:
    while body:
        wide = body[0] >> 4
        state.steps[body[0] & 15] = int.from_bytes(body[1 : 3 if wide else 2], "big")
        body = body[129 if wide else 65 :]


def _walk_scan(raw: bytes, segment: Segment, state: _State) -> int:
    """Walk one scan; the place in `raw` behind its last byte."""
    count = raw[segment.body]
    chosen = []
    for place in range(count):
        name, numbers = raw[segment.body + 1 + 2 * place : segment.body + 3 + 2 * place]
        if name not in state.components:
            raise Damage("corrupt", "a scan of the JPEG names a component that there is not")
        component = state.components[name]
        component.dc, component.ac = numbers >> 4, 0x10 | numbers & 15
        chosen.append(component)
    most_across = max(component.across for component in state.components.values())
    most_down = max(component.down for component in state.components.values())
    if count == 1:
        (only,) = chosen
        width = -(-state.width * only.across // most_across)
        height = -(-state.height * only.down // most_down)
        units, layout = -(-width // 8) * -(-height // 8), [(only, 1)]
    else:
        units = -(-state.width // (8 * most_across)) * -(-state.height // (8 * most_down))
        layout = [(component, component.across * component.down) for component in chosen]
    marker = _STOP.search(raw, segment.end)
    stop = marker.start() if marker else len(raw)
    edges = [segment.end, *(mark.start() for mark in _RESTART.finditer(raw, segment.end, stop)), stop]
    step = state.interval or units
    end = segment.end
    for number, begin in enumerate(range(0, units, step)):
        if number + 1 >= len(edges):
            raise Damage("corrupt", "restart markers of the JPEG are missing")
        start = edges[number] + (2 if number else 0)
        if number and raw[start - 1] != 0xD0 + (number - 1) % 8:
            raise Damage("corrupt", "restart markers of the JPEG are out of order")
        packed = raw[start : edges[number + 1]].replace(b"\xff\0", b"\xff")
        used = _walk_blocks(packed, min(step, units - begin), layout, state)
        end = start + used + packed[:used].count(0xFF)
        if begin + step < units and used != len(packed):
            raise Damage("corrupt", "there are extra bytes before a restart marker of the JPEG")
    return end


def _walk_blocks(data: bytes, units: int, layout: list[tuple[_Component, int]], state: _State) -> int:
    """Read `units` minimum coded units from unstuffed `data`; the number of bytes they take."""
    try:
        plan = [
            (state.tables[part.dc], state.tables[part.ac], place, state.steps.get(part.quantiser, 1))
            for place, (part, count) in enumerate(layout)
            for _ in range(count)
        ]
    except KeyError:
        raise Damage("corrupt", "a Huffman table of the JPEG is missing") from None
    levels = [0] * len(layout)
    held = bits = place = 0
    size = len(data)
    for _ in range(units):
        for dc, ac, part, step in plan:
            k = 0
            while k < 64:
                if bits < 32:
                    held = (held << 32) | int.from_bytes(data[place : place + 4].ljust(4, b"\0"), "big")
                    bits, place = bits + 32, place + 4
                length, symbol = (ac if k else dc)[held >> (bits - 16) & 0xFFFF]
                extra = symbol & 15
                bits -= length + extra
                if not length:
                    raise Damage("corrupt", "the JPEG's data holds a code that there is not")
                if k:
                    run = symbol >> 4
                    if not extra and run != 15:
                        k = 64 if not run else 65
                    else:
                        k += run + 1
                elif symbol > 11:
                    k = 65
                else:
                    value = held >> bits & ((1 << extra) - 1)
                    if extra and not value >> (extra - 1):
                        value -= (1 << extra) - 1
                    levels[part] += value
                    if abs(levels[part]) * step > _DC_RANGE + 2 * step:
                        k = 65
                    k += 1
                held &= (1 << bits) - 1
            if k > 64:
                raise Damage("corrupt", "the JPEG's data leaves the range of what it can say")
        if place * 8 - bits > size * 8:
            raise Damage("truncated", "the JPEG's data ends before its last block")
    used = -(-(place * 8 - bits) // 8)
    spare = used * 8 - (place * 8 - bits)
    padding = data[used - 1] & ((1 << spare) - 1) if used else 0
    if padding not in (0, (1 << spare) - 1):
        raise Damage("corrupt", "the JPEG's data does not end where its last block does")
    return used
