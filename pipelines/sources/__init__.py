"""Where images come from: folders, tars, parquet tables, IDX files; anything becomes a stream of `Record`s.

A source only finds, hashes and reads encoded bytes. It does not decode (`pipelines.images` does) and does not decide
(stages do). Locations are fsspec URLs, or `sample:NAME` for data that is part of this package.
"""

from __future__ import annotations

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


def open_source(params: FolderParams | TarParams | ParquetParams | IdxParams | ComposedParams) -> Source:
    """The source that `params` describes. Nothing is read yet, except what `UserError`s need."""
    if isinstance(params, ComposedParams):
        return ComposedSource(params, open_source(params.base))
    if isinstance(params, FolderParams):
        return FolderSource(params)
    if isinstance(params, TarParams):
        return TarSource(params)
    if isinstance(params, ParquetParams):
        return ParquetSource(params)
    return IdxSource(params)
