"""Foreign text on a terminal: file names, class names, captions and errors of libraries may hold anything.

`shown` is what every command passes such text through: escape sequences, control characters, marks that reorder what is
read, and bytes that are no UTF-8 become visible escapes, credentials in URLs stars. It is plain text: where rich would
read markup, it goes into a `rich.text.Text`, which `cell` makes.
"""

from __future__ import annotations

import logging
import unicodedata
import warnings
from pathlib import Path

from rich.text import Text

from pipelines.redaction import redacted

#: Categories of characters that are not seen or move others: controls, formats, surrogates, private use, separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
#: Joins emoji and letters of some scripts, and moves nothing.
_HARMLESS = {"\u200c", "\u200d"}


def shown(text: object, lines: bool = False) -> str:
    """`text` as it may be printed; with `lines` it keeps its line breaks."""
    plain = redacted(str(text))
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(char if lines and char == "\n" else _visible(char) for char in plain)


def _visible(char: str) -> str:
    if char in _HARMLESS or unicodedata.category(char) not in _UNSEEN:
        return char
    if char in "\n\r\t":
        return " "
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cell(text: object, style: str = "") -> Text:
    """A table's cell, a title or a note: no markup is read in it."""
    return Text(shown(text), style=style)


_OURS = Path(__file__).resolve().parent
_format_of_python = warnings.formatwarning


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours as its sentence alone; those of libraries with their place in the code, as Python has them."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(_OURS):
        return f"warning: {shown(message, lines=True)}\n"
    return _format_of_python(message, category, filename, lineno, line)


class ShownFormatter(logging.Formatter):
    """Warnings of libraries and of ours, as they may be printed."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), lines=True)
