"""What foreign libraries say of trouble, without what belongs to this machine or this run: the same bytes give the same words."""

from __future__ import annotations

import re

_OPENCV = re.compile(r"OpenCV\([^)]*\) \S+?:\d+: error: ")
_OBJECTS = re.compile(r"<[^<>]*(?: object| at 0x)[^<>]*>")
_ADDRESSES = re.compile(r"\b0x[0-9a-fA-F]{5,}\b")
_PATHS = re.compile(r"(?:[A-Za-z]:\\|(?<![\w.])~?/)[^\s'\":]*[^\s'\":.,)]")
_LONGEST = 200


def words(error: BaseException | str) -> str:
    """The error's text for an outcome's detail: one line of printable ASCII without addresses, objects and paths.

    The kind of the error stands for it where it says nothing.
    """
    text = error if isinstance(error, str) else str(error)
    for pattern in (_OPENCV, _OBJECTS, _ADDRESSES, _PATHS):
        text = pattern.sub("", text)
    text = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text).strip(" :'\"")
    return text[:_LONGEST] or (type(error).__name__ if isinstance(error, BaseException) else "no reason given")
