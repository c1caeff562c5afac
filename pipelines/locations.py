"""How a place is written: a local path, or a URL with a scheme.

A text is a URL only if it begins with `scheme://`. Everything else is a path of this machine, whatever colons it holds:
fsspec would read `a::b` as a chain of filesystems and serve, or clear, another folder than the one that was named. A
leading `~` is the home folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.errors import UserError

#: A storage may have a copy of its files kept on this machine.
_SCHEME = re.compile(r"(?:(?:simplecache|filecache|blockcache)::)?[A-Za-z][A-Za-z0-9+.\-]*://")
_LOCAL = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)


def is_url(location: str) -> bool:
    """Whether a place is named by a URL and lies on another storage than this machine's folders."""
    return bool(_SCHEME.match(location)) and not _LOCAL.match(location)


def local_path(location: str) -> Path:
    """The absolute path of a place that is no URL; `..` and links stay as they are written."""
    text = _LOCAL.sub("", location, count=1)
    if not text or "\0" in text:
        raise UserError(f"{location!r} is no path; name a folder, or a URL such as s3://bucket/folder")
    if not text.startswith("~"):  # pathlib takes ./~ for ~ too
        return Path(text).absolute()
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0]
        raise UserError(
            f"{location}: there is no user {user[1:]!r}; a folder called {user} is written ./{user}"
        ) from None


def normal(location: str) -> str:
    """The form in which a place goes into a job: an absolute path, or the URL as it is."""
    return location if is_url(location) else str(local_path(location))
