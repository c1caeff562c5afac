"""Payloads of units as dataclasses: what a unit is given, under names that a reader and a type checker know.

A dataclass derived from `Payload` is one kind of unit. It is stored as JSON, and comes back as itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter

from pipelines.runtime.units import Unit
from pipelines.storage import canonical_json


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Payload:
    """What one kind of unit is given; fields are JSON, dataclasses and tuples of these."""

    kind: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """As a unit carries it."""
        own: Any = type(self)
        form: dict[str, Any] = _adapter(own).dump_python(self, mode="json")
        return form

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> Self:
        """What `to_json` returned; pydantic's `ValidationError` for something else."""
        own: Any = cls
        payload: Self = _adapter(own).validate_python(form)
        return payload

    def unit(self, name: str, wave: int = 0) -> Unit:
        """A unit of this kind."""
        return Unit(name, self.to_json(), wave, self.kind)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the payload: how a unit that reads another's files names what decided them."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()
