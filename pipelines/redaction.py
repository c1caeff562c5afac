"""Credentials stay with the storage they open: whatever is written, logged or printed goes through here.

Hidden are user and password of a URL, the values of its query, what stands under a secret's name, and a storage's options.
"""

from __future__ import annotations

import re
from typing import Any

#: A URL inside a sentence ends at a space or a quote; brackets and commas may be part of it.
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>`]+")
#: A path library makes one slash of two; credentials before a host are told all the same.
_ONE_SLASH = re.compile(r"(?<![A-Za-z0-9+.\-])([A-Za-z][A-Za-z0-9+.\-]+:/)(?!/)[^\s/'\"<>`@]*:[^\s'\"<>`@]*@")
#: Before the @ of these stands the name of a container.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs", "adl")
#: Names of these have no port, so that a colon before an @ is always a credential, with slashes in it or not.
_BUCKET_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "oss", "obs", "r2")
_SECRET_KEY = re.compile(
    r"(^|[_-])(password|passwd|secret|token|credentials?|api[_-]?key|access[_-]?key|sas)$", re.IGNORECASE
)
#: In the query of a URL that was taken apart, such as the name of a file.
_SECRET_VALUE = re.compile(
    r"([?&#][\w.\-]*(?:sig|signature|token|credential|secret|password|key)=)[^&#\s'\"<>`*]+", re.IGNORECASE
)
HIDDEN = "***"


def redacted(text: str) -> str:
    """`text` without the credentials of any URL in it, and of the end of one. Local paths are left as they are."""
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda found: "::".join(map(_one, found[0].split("::"))), text)
    if ":/" in text and "@" in text:
        text = _ONE_SLASH.sub(rf"\1{HIDDEN}@", text)
    return _SECRET_VALUE.sub(rf"\1{HIDDEN}", text) if "=" in text else text


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
