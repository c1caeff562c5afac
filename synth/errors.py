"""The one error that a user of `synth` meets."""

from __future__ import annotations

from augment.errors import MethodError


class SynthError(MethodError):
    """A generator, a setting or a request cannot be used; the message is one sentence that says what was looked for and where."""
