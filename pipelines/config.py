"""params.yaml into frozen, typed sections. Every mistake is found before any work, with its path and the nearest name.

A section belongs to the stage of the same name; `run` belongs to all of them. What a key may hold is declared where the
stage is written; here lives only how a file, its overrides and its errors are read.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import UserError


@dataclass(frozen=True)
class Effect:
    """Says of a parameter, as a mark in its annotation, that it is no part of what every unit is made of."""

    words: str


#: The parameter changes how fast work is done, and no byte.
SPEED_ONLY = Effect("changes speed, no byte")
#: The parameter acts through the plan: all that it decides stands in the units' names, payloads and rows, or in the plan's facts,
#: so that a unit which it does not touch is not made anew.
PLAN_ONLY = Effect("acts through the plan")


class Section(BaseModel):
    """Base of every parameter model: immutable, an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    #: that of fields without a mark of their own
    effect: ClassVar[Effect | None] = None


def effect_of(model: type[BaseModel], name: str) -> Effect | None:
    """What a field of a model is marked with: `threads: Annotated[int, SPEED_ONLY] = 2`."""
    marks = (mark for mark in model.model_fields[name].metadata if isinstance(mark, Effect))
    return next(marks, getattr(model, "effect", None))


def deciding(section: BaseModel) -> dict[str, Any]:
    """The parameters that every unit is made of, as JSON: those without a mark, in nested sections too."""
    written: dict[str, Any] = section.model_dump(mode="json")
    form = {}
    for name, value in written.items():
        if effect_of(type(section), name) is None:
            held = getattr(section, name)
            form[name] = deciding(held) if isinstance(held, BaseModel) else value
    return form


class BreakerParams(Section):
    """When a stage stops by itself instead of turning bad input into an empty dataset."""

    min_attempted: int = Field(200, ge=1, description="samples to see before judging")
    max_failed: float = Field(0.45, gt=0, le=1, description="largest fraction of failed samples")
    max_transient: float = Field(0.2, gt=0, le=1, description="largest fraction of transient failures (network, disk)")
    min_kept: int = Field(
        1, ge=0, description="samples to be kept of an input that has any; 0 accepts an empty dataset"
    )
    max_unit_errors: int = Field(3, ge=1, description="units that raise one after another")


class RunParams(Section):
    """What holds for every stage. `device`: `auto` is CUDA where there is one, and else the CPU."""

    seed: int = Field(0, ge=0, description="the seed every other seed derives from")
    threads: int = Field(2, ge=1, le=256, description="compute threads of one worker; part of what fixes the bytes")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    breaker: BreakerParams = BreakerParams()


SectionT = TypeVar("SectionT", bound=BaseModel)


def read_params(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw mapping of a YAML file with `section.key=value` overrides applied; values are parsed as YAML."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no parameter file {path}; name one with --params, for example recipes/*.yaml") from None
    except OSError as error:
        raise UserError(f"cannot read the parameter file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold one section per stage, such as 'ingest:'; it holds {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    _require_finite(raw, [], set())
    return raw


#: Of a whole number, as of a real one: larger ones cannot be written out everywhere.
_LARGEST_BITS = 1024


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: a repeated key is an error, and `1e-3` is a number (YAML 1.1 wants `1.0e-3`).

    An anchor that stands within itself is an error too: whoever walks through such a value never comes to an end.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.deep_construct = True  # what a value holds is built before the value, so that PyYAML notices a circle

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value} stands in line {seen[key.value]} and again in line {line}; keep one"
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_yaml(text: str, origin: str) -> Any:
    """The value of a YAML text; `UserError` that names `origin` and the place where it is wrong."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:  # nested without end, or a date that is none
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None


def _require_finite(value: Any, where: list[str], seen: set[int]) -> None:
    """`.inf` and `.nan` are numbers for YAML and no parameter of anything. What aliases repeat is looked at once."""
    if isinstance(value, dict | list):
        if id(value) in seen:
            return
        seen.add(id(value))
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _require_finite(inner, [*where, str(name)], seen)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{'.'.join(where)}: {value} is not a finite number; give one, or leave the key out")
    elif isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise UserError(f"{'.'.join(where)}: a number of {value.bit_length()} bits is too large; give a smaller one")


def _apply(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"--set takes section.key=value, such as cda.ipc=2; got {override!r}")
    value = read_yaml(text, f"--set {override!r}: the value")
    *parents, last = name.split(".")
    here = raw
    for parent in parents:
        here = here.setdefault(parent, {})
        if not isinstance(here, dict):
            raise UserError(f"--set {override!r}: {parent} is a value, not a section")
    here[last] = value


def load_sections(raw: Mapping[str, Any], models: Mapping[str, type[BaseModel]], origin: str) -> dict[str, BaseModel]:
    """Validate every section of `raw`; all mistakes of the file are told at once, a line each."""
    problems = [f"unknown section {name}{_nearest(name, models)}" for name in raw if name not in models]
    sections: dict[str, BaseModel] = {}
    for name, model in models.items():
        body = raw.get(name)
        try:
            sections[name] = model.model_validate({} if body is None else body)
        except ValidationError as error:
            problems += [_sentence(name, model, item) for item in error.errors(include_url=False)]
    if problems:
        raise UserError(f"{origin}: " + "\n  ".join(["; ".join(problems)] if len(problems) == 1 else ["", *problems]))
    return sections


#: How the tag of a union's member begins that stands for no key of the file, and so in no message.
ALTERNATIVE = "<"


def _sentence(section: str, model: type[BaseModel], error: Any) -> str:
    where = [str(part) for part in error["loc"] if not str(part).startswith(ALTERNATIVE)]
    path = ".".join([section, *where])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {path}{_nearest(where[-1], _keys_at(model, where[:-1]), [section, *where[:-1]])}"
    if error["type"] == "missing":
        return f"missing key {path}"
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
    if error["type"] == "string_type" and isinstance(value, int | float):
        shown += "; put it in quotes to make it text"
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}"


def _nearest(name: str, valid: Iterable[str], parents: Sequence[str] = ()) -> str:
    names = sorted(valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*parents, close[0]])}?"
    return f"; valid: {', '.join(names)}" if names else ""


def _keys_at(owner: Any, location: Sequence[str]) -> list[str]:
    """The keys that are valid at a place of a model; in a union, those of the member that the place's tag names."""
    here: Any = owner
    for part in location:
        inner = _fields(here).get(part)
        candidates = _classes_in(inner) if inner is not None else [here]
        tagged = [one for one in candidates if set(get_args(_fields(one).get("type"))) & set(location)]
        if len(candidates) != 1 and not tagged:
            return []
        here = candidates[0] if len(candidates) == 1 else tagged[0]
    return list(_fields(here))


def _fields(owner: Any) -> dict[str, Any]:
    """Names and annotations of a parameter class: a pydantic model or a dataclass of the method packages."""
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return {name: field.annotation for name, field in owner.model_fields.items()}
    hints = get_type_hints(owner) if is_dataclass(owner) else {}
    return {name: hint for name, hint in hints.items() if not name.startswith("__")}


def _classes_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return [annotation]
    return [inner_class for inner in get_args(annotation) for inner_class in _classes_in(inner)]
