"""How a place is written: a local path, or a URL with a scheme; and how it is told without what it keeps secret.

A text is a URL only if it begins with `scheme://`. Everything else is a path of this machine, whatever colons it holds:
fsspec would read `a::b` as a chain of filesystems and serve, or clear, another folder than the one that was named. A
leading `~` is the home folder. Credentials in URLs (user and password, query values) are for the storage alone; all that
is written or printed goes through `redacted`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

#: A storage may have a copy of its files kept on this machine.
_SCHEME = re.compile(r"(?:(?:simplecache|filecache|blockcache)::)?[A-Za-z][A-Za-z0-9+.\-]*://")
_LOCAL = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)
#: A URL inside a sentence ends at a space or a quote; brackets and commas may be part of it.
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>`]+")
#: Before the @ of these stands the name of a container.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs", "adl")
#: Names of these have no port, so that a colon before an @ is always a credential, with slashes in it or not.
_BUCKET_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "oss", "obs", "r2")
_SECRET_KEY = re.compile(
    r"(^|[_-])(password|passwd|secret|token|credentials?|api_?key|access_?key|sas)$", re.IGNORECASE
)
HIDDEN = "***"


def is_url(location: str) -> bool:
    """Whether a place is named by a URL and lies on another storage than this machine's folders."""
    return bool(_SCHEME.match(location)) and not _LOCAL.match(location)


def local_path(location: str) -> Path:
    """The absolute path of a place that is no URL; `..` and links stay as they are written."""
    text = _LOCAL.sub("", location, count=1)
    if not text or "\0" in text:
        raise UserError(f"{location!r} is no path; name a folder, or a URL such as s3://bucket/folder")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # no such user
        return Path(text).absolute()


def normal(location: str) -> str:
    """The form in which a place goes into a job: an absolute path, or the URL as it is."""
    return location if is_url(location) else str(local_path(location))


def redacted(text: str) -> str:
    """`text` without the credentials of any URL in it. Local paths are left as they are."""
    return _URL_IN_TEXT.sub(lambda found: "::".join(map(_one, found[0].split("::"))), text) if "://" in text else text


def _one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest, hash_sign, fragment = rest.partition("#")
    rest, question, query = rest.partition("?")
    end = _end_of_credentials(scheme.lower(), rest)
    if end:
        rest = f"{HIDDEN}@{rest[end:]}"
    if question:
        rest += "?" + "&".join(_hidden_value(pair) for pair in query.split("&"))
    return f"{scheme}://{rest}{hash_sign}" + (_hidden_value(fragment) if "=" in fragment else fragment)


def _end_of_credentials(scheme: str, rest: str) -> int:
    """Where the host begins: behind the @ of USER:PASSWORD@, 0 without one. A password may hold slashes."""
    host = rest.partition("/")[0]
    before, sign, _ = host.rpartition("@")
    if sign:
        return 0 if scheme in _CONTAINER_SCHEMES and ":" not in before else len(before) + 1
    _, colon, port = host.partition(":")
    if colon and "@" in rest and (scheme in _BUCKET_SCHEMES or not port.isdigit()):
        return rest.rfind("@") + 1
    return 0


def _hidden_value(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return HIDDEN if len(name) > 16 else name  # a bare word is a flag, a long one may be a token
    return f"{name}={HIDDEN}" if value else pair


def redacted_values(value: Any, key: str = "") -> Any:
    """A JSON value with every text in it redacted, and with what stands under the name of a secret or a storage's options hidden."""
    if isinstance(value, dict):
        if key == "storage_options":
            return dict.fromkeys(value, HIDDEN)
        return {name: redacted_values(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET_KEY.search(key) else redacted(value)
