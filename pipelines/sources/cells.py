"""What one cell of a table holds: the bytes of an image, a path to one, a number or a text. Nothing here reads a file."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import pyarrow as pa

from pipelines.outcomes import Outcome, failed

_DATA_URI = re.compile(r"data:[^,]*,")
_URL_SAFE = str.maketrans("-_", "+/")


def unfit(kind: pa.DataType, paths: bool) -> str | None:
    """Why a column of this type cannot be one of images (or of `paths` to them); None when it can."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if paths:
        return None if is_text(kind) else "does not hold paths; name bytes in image_column"
    if is_bytes(kind) or is_text(kind) or _is_byte_list(kind):
        return None
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        if is_bytes(fields.get("bytes", pa.null())) or is_text(fields.get("path", pa.null())):
            return None
        return f"is a struct of {', '.join(fields)}, without the bytes or path of an image; name another"
    if _is_list(kind) and (is_bytes(kind.value_type) or pa.types.is_struct(kind.value_type)):
        return "holds several images in a row; write a table with one in each"
    return "does not hold images; name another"


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(check(kind) for check in checks)


def _is_byte_list(kind: pa.DataType) -> bool:
    return _is_list(kind) and (pa.types.is_uint8(kind.value_type) or pa.types.is_int8(kind.value_type))


def image_of(cell: pa.Scalar, paths: bool) -> pa.Buffer | bytes | str | Outcome:
    """The encoded bytes in a cell of an image column (without a copy where that can be), or the path it names."""
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value
    if not cell.is_valid:
        return failed("empty", detail="the cell holds nothing")
    if isinstance(cell, pa.StructScalar):
        inside = {name: cell[name] for name in cell}
        if "bytes" in inside and inside["bytes"].is_valid:
            return image_of(inside["bytes"], paths)
        return image_of(inside["path"], True) if "path" in inside else failed("empty", detail="the cell holds nothing")
    if is_bytes(cell.type):
        buffer = cell.as_buffer()
        return buffer if buffer is not None else b""
    if is_text(cell.type):
        text = text_of(cell)
        if isinstance(text, bytes):
            return failed("bad_cell", detail="the text is not in UTF-8")
        return text if paths else _from_base64(text)
    values = cell.values  # a list of bytes
    if values is None or values.null_count:
        return failed("bad_cell", detail="a list of bytes with gaps")
    return bytes(values.to_numpy(zero_copy_only=False).tobytes())


def text_of(cell: pa.Scalar) -> Any:
    """A cell as a Python value; text that is not in UTF-8 as bytes."""
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return bytes(cell.as_buffer()) if is_text(cell.type) else b"\xff"


def values_of(column: pa.Array) -> list[Any]:
    """All cells as Python values; text that is not in UTF-8 as bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [text_of(cell) for cell in column]


def _from_base64(text: str) -> bytes | Outcome:
    text = _DATA_URI.sub("", text, count=1) if text.startswith("data:") else text
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return failed("bad_cell", detail="the text is no base64; a column of paths goes into path_column")
