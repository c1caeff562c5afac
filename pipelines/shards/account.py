"""The conservation sum of a dataset: everything that was seen has a row, or a reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Met(NamedTuple):
    """What a stage met on its way: how many, counted where they are met, and those that get no row, by reason."""

    seen: int
    passed_over: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Account:
    """`seen` is counted where things are met, `rows` in the sidecars, `passed_over` by reason where they are passed over.

    What they count is the stage's affair: entries of a source for `ingest`, samples of the input for `split`, views for `augment`.
    """

    seen: int
    rows: int
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """What was seen and has neither a row nor a reason; less than 0 when something was counted twice."""
        return self.seen - self.rows - sum(self.passed_over.values())

    def to_json(self) -> dict[str, Any]:
        reasons = {reason: count for reason, count in sorted(self.passed_over.items()) if count}
        return {"seen": self.seen, "rows": self.rows, "passed_over": reasons}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Account:
        """Read what `to_json` wrote; KeyError or TypeError if it is something else."""
        account = cls(form["seen"], form["rows"], dict(form["passed_over"]))
        if not all(
            type(count) is int and count >= 0 for count in (account.seen, account.rows, *account.passed_over.values())
        ):
            raise TypeError("an account holds counts")
        return account
