"""Parameters of `report`."""

from __future__ import annotations

from pydantic import Field

from pipelines.config import Section


class ReportParams(Section):
    """Parameters of `report`."""

    title: str = Field("Limbeck report", min_length=1, max_length=200, description="stands at the top of the page")
    samples_per_class: int | None = Field(
        None, ge=1, le=50, description="images shown of each class and source; null: as many as stand in one line"
    )
