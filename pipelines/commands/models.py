"""What the parameter models say of themselves: every key with its kind, limits, default and meaning.

`explain` prints it, `docs/params.md` and the JSON Schema are made of it. Keys stand in pydantic models, which describe each, and in
plain dataclasses of the method packages: there a key's meaning is the sentence of the class's docstring that names it, and its
limits are those that the class states when it is asked for a value out of them.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.config import Section

#: Words for the types of values.
_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any", type(None): "null"}
#: Values out of the limits of nearly every number.
_BEYOND = (-1e9, 0.0, 1e9)
_LIMIT = re.compile(r"takes? (.+?)(?:, got|$)")
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[`A-Z])")
#: Words of a limit that its kind says already.
_SAID = re.compile(r"^(?:a|any)? ?(?:whole )?numbers? ")


@dataclass(frozen=True)
class Parameter:
    """One key. `sections` are the models that its value is made of, by how its path goes on: empty for a plain section."""

    name: str
    kind: str
    limits: str
    default: str
    about: str
    sections: Mapping[str, Group]


@dataclass(frozen=True)
class Group:
    """The keys of one model, at one place of params.yaml."""

    path: str
    model: type
    about: str
    parameters: tuple[Parameter, ...]

    def walk(self) -> Iterator[Group]:
        """This group and all below it."""
        yield self
        for parameter in self.parameters:
            for inner in parameter.sections.values():
                yield from inner.walk()


def group_of(path: str, model: type, default: Any = None) -> Group:
    """The keys of a pydantic model or a dataclass; defaults are those of the instance `default` where there is one."""
    about = _docstring(model)
    parameters = []
    for name, annotation, info in _fields(model):
        value = getattr(default, name) if default is not None else _default_of(model, name, info)
        sections = {
            tag: group_of(".".join(filter(None, (path, name, tag))), inner, value if isinstance(value, inner) else None)
            for tag, inner in _sections_in(annotation).items()
        }
        described = info.description if info is not None and info.description else _told_of(name, about)
        limits = _limits(info.metadata) if info is not None else _asked_limits(model, name)
        shown = (
            "a section" if sections and isinstance(value, tuple(_sections_in(annotation).values())) else _yaml(value)
        )
        parameters.append(Parameter(name, kind_of(annotation), limits, shown, described, sections))
    return Group(path, model, about, tuple(parameters))


def _docstring(model: type) -> str:
    """What a model says of itself, and below it what the classes say that it has keys from."""
    texts = []
    for one in model.__mro__:
        own = one.__dict__.get("__doc__") or ""
        is_base = one in (Section, BaseModel) or not _is_section(one)
        if own and not is_base and not own.startswith(f"{one.__name__}("):
            texts.append("\n".join(map(str.strip, own.strip().splitlines())))
    return "\n\n".join(texts)


def _fields(model: type) -> Iterator[tuple[str, Any, FieldInfo | None]]:
    if issubclass(model, BaseModel):
        for name, info in model.model_fields.items():
            yield name, info.annotation, info
    else:
        hints = get_type_hints(model, include_extras=True)
        for field in dataclasses.fields(cast(Any, model)):
            yield field.name, hints[field.name], None


def _default_of(model: type, name: str, info: FieldInfo | None) -> Any:
    if info is not None:
        return _MISSING if info.is_required() else info.get_default(call_default_factory=True)
    field = next(field for field in dataclasses.fields(cast(Any, model)) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _MISSING if field.default is dataclasses.MISSING else field.default


_MISSING = object()


def _yaml(value: Any) -> str:
    """A default as params.yaml would write it."""
    if value is _MISSING:
        return "required"
    if isinstance(value, tuple | frozenset | set):
        value = list(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def kind_of(annotation: Any) -> str:
    """A type in words, as a reader of YAML thinks of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(annotation.__metadata__)
        return kind_of(arguments[0]) + (f" {limits}" if limits else "")
    if origin is Literal:
        return " | ".join(_yaml(value) for value in arguments)
    if origin in (Union, types.UnionType):
        kinds = list(dict.fromkeys(kind_of(one) for one in arguments))
        return " | ".join(sorted(kinds, key=lambda kind: kind == "null"))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list of {_several(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(kind_of(one) for one in arguments)}]"
    if origin in (list, set, frozenset):
        return f"list of {_several(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_several(arguments[1])}"
    if isinstance(annotation, type) and _is_section(annotation):
        return "section"
    return _KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _several(annotation: Any) -> str:
    kind = kind_of(annotation)
    return f"({kind})" if " | " in kind else kind


def _is_section(one: Any) -> bool:
    return isinstance(one, type) and (issubclass(one, BaseModel) or dataclasses.is_dataclass(one))


def _sections_in(annotation: Any) -> dict[str, type]:
    """The models in a type, by how the path goes on: NAME in a mapping, the tag of a union's member, else nothing."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if _is_section(annotation):
        return {"": annotation}
    if origin is dict:
        return {".".join(filter(None, ("NAME", tag))): one for tag, one in _sections_in(arguments[1]).items()}
    sections: dict[str, type] = {}
    for inner in arguments if origin is not Literal else ():
        for tag, one in _sections_in(inner).items():
            tags = get_args({name: hint for name, hint, _ in _fields(one)}.get("type"))
            sections[str(tags[0]) if tags else tag] = one
    return sections


def _limits(metadata: Any) -> str:
    """The constraints of pydantic in words."""
    least: list[str] = []
    most: list[str] = []
    rest: list[str] = []
    for one in [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]:
        for name, words, to in (
            *(("ge", "from {}", least), ("gt", "above {}", least), ("le", "up to {}", most), ("lt", "below {}", most)),
            *(("min_length", "at least {} long", rest), ("max_length", "at most {} long", rest)),
            *(("pattern", "matches {}", rest),),
        ):
            if (value := getattr(one, name, None)) is not None:
                to.append(words.format(f"{value:,}".replace(",", " ") if isinstance(value, int) else value))
    return ", ".join([" ".join([*least, *most]), *rest] if least or most else rest)


@lru_cache
def _asked_limits(model: type, name: str) -> str:
    """What a dataclass answers when a number is given that no such key takes."""
    hint = get_type_hints(model)[name]
    kinds = set(get_args(hint) or (hint,))
    if not kinds & {int, float} or bool in kinds:
        return ""
    values = len(get_args(hint)) if get_origin(hint) is tuple else 0
    for beyond in _BEYOND:
        value: Any = int(beyond) if int in kinds and float not in kinds else beyond
        try:
            model(**{name: (value,) * values if values else value})
        except Exception as error:  # whatever the class raises for a value it does not take
            sentence = str(error)
            if name in sentence and (limit := _LIMIT.search(sentence)):
                return _SAID.sub("", limit[1])
    return ""


def _told_of(name: str, about: str) -> str:
    """The sentences of a docstring about one key: those that begin with it, else the first that names it."""
    sentences = [" ".join(one.split()) for part in re.split(r"\n\s*\n|\n- ", about) for one in _SENTENCE.split(part)]
    sentences = [one.removeprefix("- ") for one in sentences]
    first = [one for one in sentences if one.startswith((f"`{name}`", f"`{name}: "))]
    named = [one for one in sentences if f"`{name}`" in one or f"`{name}: " in one]
    return " ".join(first or named[:1])
