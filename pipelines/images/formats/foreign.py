"""Formats that are told by their first bytes so that they can be refused by their name, and what to do about each."""

from __future__ import annotations

import re

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_HEIF = frozenset({b"mif1", b"msf1", b"mif2", b"1pic"})
_JPEG_2000 = frozenset({b"jp2 ", b"jpx ", b"jpm ", b"mjp2"})
_CONVERT = "convert it to JPEG, PNG or WebP first"
_RAW = f"is what a camera's sensor saw, not a picture; {_CONVERT.replace('convert', 'develop')}"

#: First bytes, the name, and what the sentence goes on with.
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\x0a", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _CONVERT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    (b"8BPS", "Photoshop (PSD)", _CONVERT),
    (b"gimp xcf", "GIMP (XCF)", _CONVERT),
    (b"%PDF-", "PDF", "a document, not a picture; take its images out first"),
    (b"%!PS", "PostScript (EPS)", "a drawing, not pixels; rasterise it first"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", "a drawing, not pixels; rasterise it first"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)", _RAW),
    (b"FOVb", "camera raw (X3F)", _RAW),
    (b"IIRO", "camera raw (ORF)", _RAW),
    (b"IIRS", "camera raw (ORF)", _RAW),
    (b"MMOR", "camera raw (ORF)", _RAW),
    (b"IIU\0", "camera raw (RW2)", _RAW),
    (b"\0MRM", "camera raw (MRW)", _RAW),
    (b"II\x1a\0\0\0HEAPCCDR", "camera raw (CRW)", _RAW),
    (b"II\xbc\x01", "JPEG XR", _CONVERT),
    (b"\0\0\1\0", "icon (ICO)", _CONVERT),
    (b"\0\0\2\0", "cursor (CUR) or TGA", _CONVERT),
    (b"icns", "icon (ICNS)", _CONVERT),
    (b"qoif", "QOI", _CONVERT),
    (b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (b"#?RADIANCE", "Radiance HDR", _CONVERT),
    (b"#?RGBE", "Radiance HDR", _CONVERT),
    (b"DDS ", "DirectDraw surface (DDS)", _CONVERT),
    (b"\xabKTX ", "KTX", _CONVERT),
    (b"FLIF", "FLIF", _CONVERT),
    (b"BPG\xfb", "BPG", _CONVERT),
    (b"SIMPLE  =", "FITS", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "HDF5", "a table, not a picture"),
    (b"AT&TFORM", "DjVu", _CONVERT),
    (b"\x8aMNG", "MNG", _CONVERT),
    (b"\x8bJNG", "JNG", _CONVERT),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)", "a drawing, not pixels; rasterise it first"),
    (b"P7\n", "PAM", _CONVERT),
    (b"PF\n", "PFM", _CONVERT),
    (b"Pf\n", "PFM", _CONVERT),
    (b"Y\xa6\x6a\x95", "Sun raster", _CONVERT),
    (b"\x01\xda\0\1", "SGI image", _CONVERT),
    (b"\x01\xda\1\1", "SGI image", _CONVERT),
    (b"PK\x03\x04", "zip archive", "unpack it first"),
    (b"\x1f\x8b", "gzip", "unpack it first"),
    (b"BZh", "bzip2", "unpack it first"),
    (b"\xfd7zXZ\0", "xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "RAR archive", "unpack it first"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video", "take frames out of it first"),
    (b"OggS", "Ogg", "take frames out of it first"),
    (b"ID3", "MP3", "sound, not a picture"),
    (b"FLV\1", "Flash video", "take frames out of it first"),
    (b"\x93NUMPY", "NumPy array", "store it as PNG first"),
    (b"PAR1", "parquet", "a table, not a picture; give it to a source of type parquet"),
    (b"\x7fELF", "program", "not a picture"),
    (b"MZ", "program", "not a picture"),
)
_PCX = re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]")
#: What a TIFF-like header hides: camera raw by maker, found in the first bytes.
_TIFF_RAWS = ((b"CR\x02\0", 8, "CR2"),)
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def brands(raw: bytes) -> frozenset[bytes]:
    """The brands of an ISO base media file (ISO 14496-12), major and compatible; empty for another file."""
    if raw[4:8] != b"ftyp":
        return frozenset()
    size = min(int.from_bytes(raw[:4], "big"), 512, len(raw))
    return frozenset([raw[8:12], *(raw[at : at + 4] for at in range(16, size - 3, 4))])


def named(raw: bytes) -> str | None:
    """A sentence that names the format of bytes that are not read here; None when they tell nothing."""
    if (listed := brands(raw)) or raw[4:8] in (b"moov", b"mdat", b"wide"):
        return _media(raw[8:12], listed)
    for magic, name, advice in _MAGICS:
        if raw.startswith(magic):
            return _sentence(name, advice)
    if raw[:4] == b"RIFF" and len(raw) >= 12:
        kind = {b"AVI ": "AVI video", b"WAVE": "WAV sound", b"ACON": "animated cursor"}.get(raw[8:12], "RIFF file")
        return _sentence(kind, "not a picture")
    if _PCX.match(raw):
        return _sentence("PCX", _CONVERT)
    if raw[1:2] in (b"\0", b"\1") and raw[2:3] in (b"\1", b"\2", b"\3", b"\x09", b"\x0a", b"\x0b") and _is_tga(raw):
        return _sentence("TGA", _CONVERT)
    return _text(raw)


def raw_photograph(raw: bytes) -> str | None:
    """The sentence for a camera's raw file in TIFF's clothes, where its first bytes give it away."""
    for magic, at, name in _TIFF_RAWS:
        if raw[at : at + len(magic)] == magic:
            return _sentence(f"camera raw ({name})", _RAW)
    return None


def camera_raw(name: str) -> str:
    """The sentence for a camera's raw file that is told by its tags."""
    return _sentence(f"camera raw ({name})", _RAW)


def _sentence(name: str, advice: str) -> str:
    return f"it is {name}: {advice}"


def _media(major: bytes, listed: frozenset[bytes]) -> str:
    if listed & _HEIC:
        return _sentence("HEIC", _CONVERT)
    if major == b"crx ":
        return _sentence("camera raw (CR3)", _RAW)
    if listed & _JPEG_2000:
        return _sentence("JPEG 2000", _CONVERT)
    if listed & _HEIF:
        return _sentence("HEIF without AV1 images", _CONVERT)
    return _sentence("MP4 or QuickTime video", "take frames out of it first")


def _is_tga(raw: bytes) -> bool:
    """A TGA has no magic: its header must make sense field by field (Truevision, 1989)."""
    if len(raw) < 18:
        return False
    mapped, width, height, depth = raw[1], *(int.from_bytes(raw[at : at + 2], "little") for at in (12, 14)), raw[16]
    plain = raw[3:8] == bytes(5) if not mapped else raw[7] in (15, 16, 24, 32)
    return bool(plain and width and height and depth in (8, 15, 16, 24, 32) and raw[17] & 0xC0 == 0)


def _text(raw: bytes) -> str | None:
    """HTML, XML, SVG, JSON or other text: what a server sends in place of an image that is gone."""
    start = raw[:1024]
    for mark in _BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    start = start.replace(b"\0", b"").lstrip().lower()
    if b"<svg" in start:
        return _sentence("SVG", "a drawing, not pixels; rasterise it first")
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")) or b"<html" in start:
        return _sentence("HTML", "a web page, not a picture; the address may be gone or ask for a login")
    if start.startswith(b"<?xml") or re.match(rb"<[a-z!/][^<>]*>", start):
        return _sentence("XML", "text, not a picture")
    if start.startswith(b"version https://git-lfs"):
        return _sentence("a Git LFS pointer", "fetch the file itself: git lfs pull")
    if re.match(rb'(\{\s*("|\}|$)|\[\s*(["\[\{\d\]-]|$))', start):
        return _sentence("JSON", "text, not a picture")
    if start.startswith((b"data:image", b"/9j/", b"ivborw0kggo")):
        return _sentence("base64 text", "decode it first")
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    if start and printable == len(start):
        return _sentence("plain text", "not a picture")
    return None
