"""What the name of a tar's member says: which sample it belongs to, whether it is an image, or nobody's data at all."""

from __future__ import annotations

import re

#: Endings of images that the image path reads.
IMAGE_ENDINGS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "pgm", "ppm", "pbm", "avif"}
    | {"image", "img"}  # how some datasets call whatever was downloaded
)
#: Endings of images that it does not read. They are tried all the same, so that each is refused by name in a row.
FOREIGN_IMAGE_ENDINGS = frozenset(
    {
        "heic",
        "heif",
        "hif",
        "jxl",
        "jp2",
        "j2k",
        "jpx",
        "jxr",
        "psd",
        "psb",
        "xcf",
        "svg",
        "ico",
        "tga",
        "pcx",
        "pnm",
        "pam",
    }
    | {"exr", "hdr", "dds", "dcm", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "raw", "svs"}
)

#: Endings of compressed tars, and what unpacks them.
COMPRESSED = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip",
    ".tar.bz2": "bunzip2",
    ".tbz2": "bunzip2",
    ".tar.xz": "unxz",
    ".txz": "unxz",
    ".tar.zst": "zstd -d",
    ".tar.lz4": "lz4 -d",
}

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:\Z|/)")
#: Folders and files that operating systems and archivers leave.
_LITTER = re.compile(
    r"(?:.*/)?(?:__MACOSX/|PaxHeaders?(?:\.\d+)?/|@eaDir/|Thumbs\.db\Z|desktop\.ini\Z|\._|\.DS_Store\Z)", re.DOTALL
)


def split_name(name: str) -> tuple[str, str] | None:
    """(key, lower-case extension) of a member name, or None where WebDataset would skip the member.

    The extension begins at the first dot of the last component, as WebDataset has it.
    """
    match = _NAME.fullmatch(name)
    if match is None or _META.match(name):
        return None
    return match[1], match[2].lower()


def image_ending(name: str) -> str | None:
    """The ending of an image's name in lower case, be it a format that is read or not; None for other names."""
    stem, _, ending = name.rsplit("/", 1)[-1].lower().rpartition(".")
    return ending if stem and (ending in IMAGE_ENDINGS or ending in FOREIGN_IMAGE_ENDINGS) else None


def is_litter(name: str) -> bool:
    """Whether an operating system or an archiver left this: `._x.jpg`, `.DS_Store`, `__MACOSX/`, `PaxHeaders/`."""
    return _LITTER.match(name) is not None
