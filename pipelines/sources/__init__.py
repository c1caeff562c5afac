"""Where images come from: folders, tars, parquet tables, IDX files; anything becomes a stream of `Record`s.

A source only finds, hashes and reads encoded bytes. It does not decode (`pipelines.images` does) and does not decide
(stages do). Locations are fsspec URLs, or `sample:NAME` for data that is part of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.config import Section
from pipelines.sources.base import Record, Source
from pipelines.sources.composed import ComposedSource
from pipelines.sources.folder import FolderSource
from pipelines.sources.idx import IdxSource
from pipelines.sources.params import (
    ComposedParams,
    FolderParams,
    IdxParams,
    ParquetParams,
    SourceParams,
    TarParams,
)
from pipelines.sources.parquet import ParquetSource
from pipelines.sources.tar import TarSource

__all__ = [
    "ComposedParams",
    "FolderParams",
    "IdxParams",
    "ParquetParams",
    "Record",
    "Source",
    "SourceParams",
    "TarParams",
    "open_source",
]


#: What opens a source, by the class of its parameters.
OPENERS: dict[type[Section], Callable[[Any], Source]] = {
    FolderParams: FolderSource,
    TarParams: TarSource,
    ParquetParams: ParquetSource,
    IdxParams: IdxSource,
    ComposedParams: lambda params: ComposedSource(params, open_source(params.base)),
}


def open_source(params: Section) -> Source:
    """Open the source that `params` describes. Nothing is read yet, except what `UserError`s need."""
    return OPENERS[type(params)](params)
