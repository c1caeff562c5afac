"""The errors a user can meet. One sentence each: what is wrong, where, and the next command or change.

`UserError` ends a command with exit code 2 and no traceback, `StageStopped` with 3; anything else is a bug (exit 1).
"""

from __future__ import annotations

from pipelines.redaction import redacted


class LimbeckError(Exception):
    """Base of the errors that are shown as one sentence instead of a traceback."""

    exit_code = 1

    def __init__(self, sentence: str) -> None:
        super().__init__(redacted(sentence))  # it may quote a URL, or an error of a library that does


class UserError(LimbeckError):
    """The request cannot be carried out as written: a wrong value, a missing file, an unfinished input."""

    exit_code = 2


class StageStopped(LimbeckError):
    """A stage stopped because too many samples or units failed; what is done stays done."""

    exit_code = 3
