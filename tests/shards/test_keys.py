"""Keys and samples: what is a valid name, and which order members have."""

from __future__ import annotations

import base64
import hashlib

import pytest

from pipelines.shards.keys import KEY_PATTERN, content_key, derived_key, key_of_bytes, key_of_url, slot_key
from pipelines.shards.sample import Sample, ordered_members


def test_a_key_is_26_lower_base32_characters_of_the_digest() -> None:
    # What coreutils say: sha256sum of nothing, through base32.
    assert key_of_bytes(b"") == "4oymiquy7qobjgx36tejs35zeq"
    assert content_key(hashlib.sha256(b"x").digest()) == key_of_bytes(b"x")
    assert key_of_url("https://example.org/a.jpg") == key_of_bytes(b"https://example.org/a.jpg")
    assert KEY_PATTERN.fullmatch(key_of_bytes(b""))
    for digest in (bytes(32), b"\xff" * 32, *(hashlib.sha256(b"%d" % number).digest() for number in range(500))):
        assert content_key(digest) == base64.b32encode(digest)[:26].decode().lower()


def test_a_derived_key_shows_its_family() -> None:
    parent = key_of_bytes(b"")
    child = derived_key(parent, "d", 3)
    assert child == parent + "-d0003"
    assert derived_key(child, "a", 12345, width=2) == parent + "-d0003-a12345"
    assert slot_key("cda", 3, 12) == "cda-c00003-s00012"
    assert KEY_PATTERN.fullmatch(child)
    assert KEY_PATTERN.fullmatch(slot_key("cda", 3, 12))


@pytest.mark.parametrize("bad", ["", "A", "a.b", "a/b", "-a", "a-", "a--b", "a b", "a" * 81, "ä", "a\n"])
def test_a_name_that_readers_would_split_or_refuse_is_not_a_key(bad: str) -> None:
    assert not KEY_PATTERN.fullmatch(bad)


def test_members_come_in_the_order_of_the_contract() -> None:
    shuffled = [("npy", b"n"), ("txt", b"t"), ("cls", b"1"), ("json", b"{}"), ("webp", b"w")]
    assert [ext for ext, _ in ordered_members(shuffled)] == ["webp", "json", "cls", "txt", "npy"]


@pytest.mark.parametrize(
    "members",
    [
        (("json", b""), ("jpg", b"")),  # order
        (("jpg", b""), ("png", b"")),  # two images
        (("jpg", b""), ("jpg", b"")),
        (("jpg", b""), ("pkl", b"")),
    ],
)
def test_a_sample_refuses_members_the_contract_does_not_know(members: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(AssertionError):
        Sample("key", members)


def test_a_sample_finds_its_members() -> None:
    sample = Sample("key", (("png", b"p"), ("json", b"{}")))
    assert sample.image == ("png", b"p")
    assert sample.member("json") == b"{}"
    assert sample.member("cls") is None
