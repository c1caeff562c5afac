"""Where an error of a method package becomes the user's. The runners do it for every unit, so that stages need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from augment.errors import MethodError
from pipelines.errors import UserError


@contextmanager
def method_errors(subject: str) -> Iterator[None]:
    """Turn a `MethodError` into a `UserError` that begins with `subject`: the parameters, or the input, that it is about.

    Such an error follows from the data and the parameters, so it ends the run at once, and nobody is told to run the stage again as it is.
    """
    try:
        yield
    except MethodError as error:
        raise UserError(f"{subject}: {error}") from error
