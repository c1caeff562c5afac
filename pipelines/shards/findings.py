"""What `lint` reports: findings as values, and a collector that keeps a broken terabyte from filling the memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

#: Findings of one code in one file that are kept in full; the rest are counted.
SHOWN_PER_FILE = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `code` is a stable snake_case word, `where` a path or `path:member`."""

    severity: Severity
    code: str
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class LintReport:
    """All findings, and how many samples and bytes of shards were read to make them."""

    findings: tuple[Finding, ...]
    samples: int
    bytes: int

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not any(finding.severity == "error" for finding in self.findings)


def _printable(text: str) -> str:
    """Names come from data: control characters and broken UTF-8 must not reach a terminal."""
    return text if text.isprintable() else ascii(text)


class Findings:
    """Collects findings, at most `SHOWN_PER_FILE` of each code in each file; `prefix` goes in front of every place."""

    def __init__(self) -> None:
        self.prefix = ""
        self._found: list[Finding] = []
        self._counts: Counter[tuple[Severity, str, str]] = Counter()

    def error(self, code: str, where: str, message: str, member: str = "") -> None:
        """Something a reader would trip over or be misled by."""
        self._add("error", code, where, message, member)

    def warning(self, code: str, where: str, message: str, member: str = "") -> None:
        """Something that is allowed but was probably not meant."""
        self._add("warning", code, where, message, member)

    def _add(self, severity: Severity, code: str, where: str, message: str, member: str) -> None:
        where, member, message = self.prefix + where, _printable(member), _printable(message)
        self._counts[severity, code, where] += 1
        if self._counts[severity, code, where] <= SHOWN_PER_FILE:
            self._found.append(Finding(severity, code, f"{where}:{member}" if member else where, message))

    def all(self) -> tuple[Finding, ...]:
        """Errors first, each kind in the order it was met, then how many were left out."""
        more = [
            Finding(severity, code, where, f"and {count - SHOWN_PER_FILE} more like this")
            for (severity, code, where), count in self._counts.items()
            if count > SHOWN_PER_FILE
        ]
        return tuple(sorted([*self._found, *more], key=lambda finding: finding.severity))
