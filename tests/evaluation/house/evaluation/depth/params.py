"""Parameters of `evaluate@depth`."""

from __future__ import annotations

from pydantic import Field

from pipelines.config import Section


class DepthParams(Section):
    """How well the nearest mean image tells classes apart."""

    images: int = Field(4, ge=1, description="images per class that a mean is taken of")
    seeds: int = Field(3, ge=1, description="draws of these images")


PARAMS = DepthParams
