"""Parameters of `toy`."""

from __future__ import annotations

from pydantic import Field

from pipelines.config import Section


class ToyParams(Section):
    """Parameters of `toy`."""

    ipc: int = Field(2, ge=1, description="images per class")
    shade: float = Field(0.5, ge=0, le=1, description="how much of a real image is left")
