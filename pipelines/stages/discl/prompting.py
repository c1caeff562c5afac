"""The user's files of descriptions and contexts, read and checked before any work, as prompts of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from augment.errors import MethodError
from pipelines.config import read_yaml
from pipelines.errors import UserError
from pipelines.stages.discl.params import DisclParams
from synth.datadream.prompts import Context, ContextBank
from synth.discl.prompts import PromptBook


def load_prompts(params: DisclParams, classes: Sequence[str], hard: Sequence[str]) -> PromptBook:
    """Read the prompts; `UserError` for a class in a file that there is not, and for a `hard` one without a prompt."""
    _require_classes(params.names, classes, "discl.names")
    bank = contexts = None
    if params.prompts.bank is not None:
        bank = _bank(params.prompts.bank, params, classes)
    if params.prompts.contexts is not None:
        contexts = _contexts(params.prompts.contexts)
    try:
        book = PromptBook(params.prompts.template, bank, params.prompts.prefix, contexts)
        book.require(params.name_of(name) for name in hard)
    except MethodError as error:
        raise UserError(f"discl.prompts: {error}") from None
    return book


def _require_classes(names: Any, classes: Sequence[str], where: str) -> None:
    for name in names:
        if name not in classes:
            raise UserError(f"{where} has {name!r}, which is no class; there is {', '.join(classes)}")


def _bank(path: str, params: DisclParams, classes: Sequence[str]) -> dict[str, list[str]]:
    """Descriptions by what prompts call the class."""
    parsed = _read(path, "discl.prompts.bank")
    if not isinstance(parsed, dict) or not all(isinstance(own, list) for own in parsed.values()):
        raise UserError(f"discl.prompts.bank: {path} must hold class names, each with a list of descriptions")
    _require_classes([str(name) for name in parsed], classes, f"discl.prompts.bank: {path}")
    return {params.name_of(str(name)): [str(line) for line in own] for name, own in parsed.items()}


def _contexts(path: str) -> ContextBank:
    parsed = _read(path, "discl.prompts.contexts")
    try:
        return ContextBank({str(key): Context(**context) for key, context in parsed.items()})
    except (TypeError, AttributeError, MethodError) as error:
        raise UserError(
            f"discl.prompts.contexts: {path} is not a mapping of names to pose and background: {error}"
        ) from None


def _read(path: str, parameter: str) -> Any:
    try:
        return read_yaml(Path(path).expanduser().read_text(encoding="utf-8"), path)
    except OSError as error:
        raise UserError(f"{parameter}: {path} cannot be read ({error.strerror}); give a YAML file") from None
