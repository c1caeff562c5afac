"""Damaged pictures are refused, in every format; sound ones are kept whatever lies beside their pixels."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipelines.images import ImageParams, Processed, decode_rgb, process
from pipelines.outcomes import Outcome
from tests.faults.kinds import CHECKSUMMED, UNPACKED, cut, flipped, noisy, sound, zero_tailed
from tests.images.making import encoded, png_16, png_chunk

KEEP = ImageParams(format="keep")
KINDS = sorted(sound())


def shows_as_before(damaged: bytes, kind: str) -> bool:
    """Whether damage is refused or left the pixels alone."""
    found, whole = decode_rgb(damaged), decode_rgb(sound()[kind])
    assert isinstance(whole, np.ndarray), whole
    return isinstance(found, Outcome) or np.array_equal(found, whole)


def refusal(raw: bytes) -> tuple[str, str]:
    found = process(raw, ImageParams())
    assert isinstance(found, Outcome), "it was kept"
    return found.reason, found.detail


def kept(raw: bytes, params: ImageParams = KEEP) -> Processed:
    found = process(raw, params)
    assert isinstance(found, Processed), found
    return found


# Damage ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    wrong = [share for share in np.linspace(0.02, 0.999, 40) if not shows_as_before(cut(sound()[kind], share), kind)]
    assert not wrong


@pytest.mark.parametrize("kind", sorted(set(KINDS) - UNPACKED))
def test_a_file_that_ends_in_zeros_is_refused_or_whole(kind: str) -> None:
    shares = np.linspace(0.02, 0.98, 40)
    wrong = [share for share in shares if not shows_as_before(zero_tailed(sound()[kind], share), kind)]
    assert not wrong


@pytest.mark.parametrize("kind", sorted(CHECKSUMMED))
def test_no_changed_bit_of_a_png_goes_unseen(kind: str) -> None:
    raw, rng = sound()[kind], random.Random(kind)
    places = [[rng.randrange(8 * len(raw)) for _ in range(rng.choice((1, 1, 3)))] for _ in range(120)]
    assert not [place for place in places if not shows_as_before(flipped(raw, place), kind)]


@pytest.mark.parametrize("kind", ["jpeg", "jpeg 420", "jpeg grey", "tiff adobe_deflate", "tiff packbits", "tiff jpeg"])
def test_a_lost_block_in_the_middle_is_refused(kind: str) -> None:
    raw = sound()[kind]
    lost = len(raw) // 8
    for share in (0.3, 0.5, 0.7):
        start = int(len(raw) * share)
        assert shows_as_before(raw[:start] + bytes(lost) + raw[start + lost :], kind)


@pytest.mark.parametrize("kind", ["avif", "avif alpha"])
def test_nearly_every_changed_bit_of_an_avif_is_seen(kind: str) -> None:
    """dav1d shows all of them; AV1 data that was changed does not come out even, which libaom looks at."""
    raw = sound()[kind]
    places = range(8 * len(raw) // 2, 8 * len(raw) - 8, len(raw) // 8)
    seen = [isinstance(decode_rgb(flipped(raw, [place])), Outcome) for place in places]
    assert sum(seen) > 0.8 * len(seen)


def test_a_webp_is_not_read_beyond_its_end() -> None:
    """Bytes that were put in push the end of the data behind that of the file, where OpenCV went on reading."""
    raw = sound()["webp lossless"]
    for place in range(200, len(raw) - 200, len(raw) // 12):
        longer = raw[:place] + raw[place : place + 100] + raw[place:]
        if isinstance(decode_rgb(longer[: len(raw)]), Outcome):
            assert isinstance(decode_rgb(longer), Outcome), place


def test_keep_never_stores_a_broken_file() -> None:
    for kind in KINDS:
        for share in (0.5, 0.9):
            found = process(cut(sound()[kind], share), KEEP)
            assert isinstance(found, Outcome) or kind.endswith("animated"), kind


def test_a_jpeg_without_a_scan_or_with_a_component_missing_is_refused() -> None:
    raw = sound()["jpeg progressive"]
    first = raw.index(b"\xff\xda")
    assert refusal(raw[:first] + b"\xff\xd9")[0] == "bad_header"
    second = raw.index(b"\xff\xda", first + 2)
    # Its first scan holds all components; with one of them renamed away, nothing shows that one.
    lonely = bytearray(raw[:second] + b"\xff\xd9")
    lonely[first + 4], lonely[first + 9] = 1, lonely[first + 9]
    header = raw[:first] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x01"
    assert refusal(header + raw[first + 14 : second] + b"\xff\xd9")[0] == "corrupt"


def test_a_png_must_hold_the_rows_that_it_says_and_end() -> None:
    rows = [b"\0" + bytes([row] * 48) for row in range(16)]
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))

    def made(*parts: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts)

    whole, end = png_chunk(b"IDAT", zlib.compress(b"".join(rows))), png_chunk(b"IEND", b"")
    assert isinstance(decode_rgb(made(whole, end)), np.ndarray)
    short = png_chunk(b"IDAT", zlib.compress(b"".join(rows[:9])))
    for raw in (made(short, end), made(whole), made(end), made(whole[:-4] + bytes(4), end)):
        assert refusal(raw)[0] in ("corrupt", "truncated")
    clear = png_chunk(b"tRNS", struct.pack(">3H", 1, 1, 1))
    for raw in (made(clear, short, end), made(clear[:-4] + bytes(4), whole, end), made(clear, whole)):
        assert refusal(raw)[0] in ("corrupt", "truncated")
    assert refusal(made(png_chunk(b"ABCD", b"x"), whole, end))[0] == "unsupported_mode"


def test_data_that_a_decoder_finds_flat_is_no_damage() -> None:
    """A white WebP ends in zeros by nature."""
    for side in (64, 1024):
        for options in ({}, {"lossless": True}, {"quality": 1}):
            for value in (0, 255):
                raw = encoded(np.full((side, side, 3), value, np.uint8), "WEBP", **options)
                assert isinstance(decode_rgb(raw), np.ndarray)
                raw = encoded(np.full((side, side, 3), value, np.uint8), "AVIF", **options)
                assert isinstance(decode_rgb(raw), np.ndarray)


# Beside the pixels ------------------------------------------------------------


def jpeg_with(extra: bytes, at: int | None = None, kind: str = "jpeg") -> bytes:
    """A JPEG with bytes put in: behind SOI, or `at` a place (from the end when negative)."""
    raw = sound()[kind]
    place = 2 if at is None else at % len(raw)
    return raw[:place] + extra + raw[place:]


def icc_piece(number: int, count: int, body: bytes) -> bytes:
    return b"\xff\xe2" + struct.pack(">H", 16 + len(body)) + b"ICC_PROFILE\0" + bytes([number, count]) + body


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("jpeg")])
@pytest.mark.parametrize("extra", [b"\0", b"\x12\x34" * 100, bytes(4096), b"\xff" * 9 + b"\0"])
def test_extra_bytes_before_the_end_of_a_jpeg_do_no_harm(kind: str, extra: bytes) -> None:
    made = kept(jpeg_with(extra, -2, kind))
    # A few bytes are read ahead by the decoder, which then has nothing to say of them.
    assert made.notes == "extra_bytes_before_end" or (made.notes is None and len(extra) < 12)
    np.testing.assert_array_equal(decode_rgb(jpeg_with(extra, -2, kind)), decode_rgb(sound()[kind]))


def test_extra_bytes_of_any_kind_are_told_from_lost_data_in_a_baseline_jpeg() -> None:
    junk = random.Random(0).randbytes(700).replace(b"\xff", b"\xfe")
    for kind in ("jpeg", "jpeg 420", "jpeg grey", "jpeg restart"):
        assert kept(jpeg_with(junk, -2, kind)).notes == "extra_bytes_before_end"
    assert refusal(jpeg_with(junk, -2, "jpeg progressive"))[0] == "corrupt"


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        (sound()["jpeg"] + bytes(4096), "bytes_after_end"),
        (sound()["jpeg"] + sound()["jpeg"], "bytes_after_end"),
        (sound()["png"] + b"garbage", "bytes_after_end"),
        (sound()["png rgba"] + b"\0\0", "bytes_after_end"),
        (sound()["webp"] + b"more", "bytes_after_end"),
        (jpeg_with(b"\xff\xe1\x00\x08Exif\0\0"), "bad_exif"),
        (jpeg_with(b"\xff\xe1\x00\x12Exif\0\0MM\0*\0\0\0\x08\0\x05"), "bad_exif"),
        (jpeg_with(icc_piece(2, 1, b"x" * 20)), "bad_profile"),
        (jpeg_with(icc_piece(1, 1, b"x" * 20) * 2), "bad_profile"),
        (jpeg_with(icc_piece(0, 1, b"x" * 20)), "bad_profile"),
        (jpeg_with(icc_piece(1, 2, b"x" * 20)), "bad_profile"),
        (jpeg_with(icc_piece(1, 1, b"no profile" * 20)), "bad_profile"),
        (jpeg_with(b"\xff\xed\x00\x08" + b"x" * 60), "junk_between_segments"),
        (jpeg_with(b"\xff\xed\x00\x00"), None),
        (jpeg_with(b"\0\0", 20), "junk_between_segments"),
    ],
)
def test_what_is_wrong_beside_the_pixels_is_noted_and_they_are_kept(raw: bytes, note: str | None) -> None:
    kind = {b"\xff\xd8": "jpeg", b"RI": "webp"}.get(raw[:2], "png rgba" if raw.endswith(b"\0\0") else "png")
    made = kept(raw, ImageParams(format="png"))
    assert made.notes == note
    np.testing.assert_array_equal(decode_rgb(made.data), decode_rgb(sound()[kind]))


def test_what_keep_stores_of_a_repaired_picture_needs_no_repair() -> None:
    for raw in (jpeg_with(b"\x01" * 9, -2), jpeg_with(icc_piece(2, 1, b"x" * 20)), jpeg_with(b"\0\0", 20)):
        made = kept(raw)
        assert made.data != raw
        again = kept(made.data)
        assert (again.notes, again.data, again.pixel_sha256) == (None, made.data, made.pixel_sha256)


def bad_sum(chunk: bytes) -> bytes:
    return chunk[:-4] + bytes(4)


PROFILE = zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
TEXT = png_chunk(b"tEXt", b"Comment\0hello")


@pytest.mark.parametrize("kind", sorted(CHECKSUMMED))
@pytest.mark.parametrize(
    ("chunk", "note"),
    [
        (bad_sum(TEXT), "bad_chunk"),
        (bad_sum(png_chunk(b"tIME", b"\x07\xe0\1\1\1\1\1")), "bad_chunk"),
        (bad_sum(png_chunk(b"iCCP", b"ICC\0\0" + PROFILE)), "bad_profile"),
        (png_chunk(b"iCCP", b"ICC\0\0\1\2\3\4"), "bad_profile"),
        (png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(64 << 20))), "bad_profile"),
        (bad_sum(png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")), "bad_chunk,bad_exif"),
        (png_chunk(b"eXIf", b"no TIFF at all"), "bad_exif"),
        (png_chunk(b"zTXt", b"Raw\0\0" + zlib.compress(bytes(64 << 20))), None),
        (png_chunk(b"iTXt", b"Raw\0\1\0\0\0" + zlib.compress(bytes(64 << 20))), None),
        (png_chunk(b"abCd", b"x"), None),
        (TEXT * 3, None),
    ],
)
def test_other_chunks_of_a_png_do_no_harm(kind: str, chunk: bytes, note: str | None) -> None:
    raw = sound()[kind]
    for place in (33, len(raw) - 12):
        made = kept(raw[:place] + chunk + raw[place:], ImageParams(format="png"))
        assert made.notes == note
        np.testing.assert_array_equal(decode_rgb(made.data), decode_rgb(raw))


def test_a_grey_value_of_16_bits_can_be_transparent() -> None:
    ramp = np.tile(np.arange(0, 65_536, 1024, dtype=np.uint16), (32, 1))
    raw = png_16(ramp)
    clear = raw[:33] + png_chunk(b"tRNS", struct.pack(">H", 2048)) + raw[33:]
    shown, plain = decode_rgb(clear), decode_rgb(raw)
    assert isinstance(shown, np.ndarray)
    assert isinstance(plain, np.ndarray)
    assert (shown[:, 2] == 255).all()
    np.testing.assert_array_equal(np.delete(shown, 2, axis=1), np.delete(plain, 2, axis=1))


# Orientation ------------------------------------------------------------


def app1(orientation: int | None, order: str = ">", kind: int = 3) -> bytes:
    entries = b"" if orientation is None else struct.pack(order + "HHI", 0x112, kind, 1)
    if orientation is not None:
        entries += struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    block = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(entries) // 12) + entries
    body = b"Exif\0\0" + block + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (app1(6) + app1(1), 6),
        (app1(1) + app1(6), 1),
        (app1(None) + app1(8), 8),
        (app1(3, "<") + app1(6) + app1(1), 3),
        (app1(6, "<", 4) + app1(1), 6),
        (b"\xff\xe1\x00\x08Exif\0\0" + app1(6), 6),
        (app1(0) + app1(6), 1),
    ],
)
def test_the_first_exif_segment_that_states_an_orientation_counts(segments: bytes, expected: int) -> None:
    assert kept(jpeg_with(segments)).orientation == expected


# Formats ------------------------------------------------------------


@pytest.mark.parametrize("how", [{"subsampling": 2}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}])
def test_cmyk_of_any_sampling_is_read_and_its_damage_seen(how: dict[str, int]) -> None:
    cyan = Image.fromarray(noisy()).convert("CMYK")
    raw = encoded(cyan, "JPEG", **how)
    plain = decode_rgb(encoded(cyan, "JPEG", subsampling=0))
    found = decode_rgb(raw)
    assert isinstance(found, np.ndarray), found
    assert isinstance(plain, np.ndarray), plain
    assert np.abs(found.astype(int) - plain).mean() < 12  # less colour, the same picture: not inverted, nothing swapped
    for share in (0.5, 0.9):
        assert isinstance(decode_rgb(cut(raw, share)), Outcome)
        if "progressive" not in how:
            assert isinstance(decode_rgb(zero_tailed(raw, share)), Outcome)


def test_avif_of_another_brand_and_bigtiff_are_read() -> None:
    raw = sound()["avif"]
    np.testing.assert_array_equal(decode_rgb(raw[:8] + b"mif1" + raw[12:]), decode_rgb(raw))
    assert sound()["avif sequence"][8:12] == b"avis"
    np.testing.assert_array_equal(decode_rgb(sound()["bigtiff"]), noisy())


def heif(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(99)


FOREIGN = {
    "HEIC": [heif(b"heic", b"mif1", b"heic"), heif(b"mif1", b"heic"), heif(b"hevc", b"msf1")],
    "HEIF": [heif(b"mif1", b"miaf")],
    "JPEG XL": [b"\xff\x0a" + bytes(50), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30)],
    "JPEG 2000": [encoded(noisy(), "JPEG2000"), b"\xff\x4f\xff\x51" + bytes(40)],
    "PSD": [b"8BPS\0\1" + bytes(40)],
    "PDF": [b"%PDF-1.4\n"],
    "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n"],
    "SVG": [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>"],
    "CR2": [
        b"II*\0\x10\0\0\0CR\x02\0"
        + bytes(4)
        + struct.pack("<HHHII", 2, 256, 3, 1, 64)
        + struct.pack("<HHII", 257, 3, 1, 64)
    ],
    "DNG": [
        b"II*\0\x08\0\0\0\3\0"
        + b"".join(struct.pack("<HHII", *tag) for tag in ((256, 3, 1, 64), (257, 3, 1, 64), (50706, 1, 4, 1025)))
    ],
    "CR3": [heif(b"crx ", b"crx ", b"isom")],
    "ICO": [encoded(noisy(32, 32), "ICO")],
    "TGA": [encoded(noisy(), "TGA")],
    "HTML": [b"<!DOCTYPE html><html><body>404</body></html>", b"\n <HTML>", b"<script>location='/login'</script>"],
    "JSON": [b'{"error": "not found"}', b'[{"a": 1}]'],
    "XML": [b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"],
    "text": [b"Not Found\n", b"hello, this is text"],
    "video": [heif(b"isom", b"mp42"), heif(b"qt  ")],
    "zip": [b"PK\x03\x04" + bytes(40)],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused_by_their_name(name: str) -> None:
    for raw in FOREIGN[name]:
        reason, detail = refusal(raw)
        assert reason == "unsupported_format"
        assert name in detail


def test_pillow_opens_what_we_take_for_its_formats() -> None:
    """The kinds above are what they are called, by an independent reader."""
    for kind, raw in sound().items():
        with Image.open(io.BytesIO(raw)) as image:
            assert (image.format or "").lower()[:3] in (kind[:3], "ppm" if kind[:3] in ("pgm", "pbm") else "", "tif")
