"""Sentences that name a next command keep the options of the one that was given, so that it can be copied as it stands.

The sentences are written where the fault is found, which is far from the command line: here the options are put into them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.stages import STAGES

#: Verbs that take parameters, and those that take the data folder only, with what they are asked about.
_COMMAND = re.compile(
    r"limbeck (?:(?P<run>run|plan|retry) (?P<name>[\w@]+)|(?P<read>info|show)(?: --failed)? (?P<of>[\w@/]+)|(?P<all>status|results))"
    r"(?! --(?:params|data))\b"
)


@dataclass(frozen=True)
class Given:
    """The options of a command that decide what it is about."""

    params: str | None = None
    overrides: Sequence[str] = ()
    data: str | None = None

    def keep(self, text: str) -> str:
        """`text` with these options in every command of Limbeck that it names."""
        if self.params is None and self.data is None and not self.overrides:
            return text
        return _COMMAND.sub(self._with_options, text)

    def _with_options(self, command: re.Match[str]) -> str:
        name = command["name"] or command["of"] or ""
        if name and name.partition("/")[0].partition("@")[0] not in {*STAGES, "all"}:
            return command[0]
        options = [] if self.params is None or not command["run"] else ["--params", self.params]
        options += [word for one in self.overrides if command["run"] for word in ("--set", one)]
        options += [] if self.data is None else ["--data", self.data]
        return " ".join([command[0], *map(shlex.quote, options)])
