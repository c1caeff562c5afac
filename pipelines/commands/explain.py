"""`limbeck explain` and `docs/params.md`: what every parameter is, made from the models that read params.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType

from pipelines.commands.jobs import section_models
from pipelines.commands.models import Group, Parameter, group_of
from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.errors import UserError
from pipelines.stages import STAGES, get_stage
from pipelines.terminal import cell

PAGE_HEAD = """# Parameters

Made from the code by `python -m tests.commands.test_params_page`; `limbeck explain SECTION[.KEY]` prints the same. One section per
stage stands in `params.yaml`, and `run` holds for all of them. A key that is left out has its default; an unknown key, section or
name is an error with the nearest one. `limbeck validate` checks a file, `limbeck schema` prints its JSON Schema for editors.

`NAME` in a path is a name of your own; in `ingest.sources.folder` and its neighbours the last word is the `type` of a source.
"""


def groups() -> dict[str, Group]:
    """The keys of every section, by its name."""
    return {name: group_of(name, model) for name, model in section_models().items()}


def explain_view(path: str) -> View:
    """A section, a section within one, or one key: `cda`, `cda.recover`, `cda.recover.milestone`.

    Empty lists the sections. `UserError` with the nearest name for a path that is none.
    """
    if not path:
        return _contents()
    first, *rest = path.split(".")
    sections = groups()
    if first not in sections:
        raise _unknown(path, first, list(sections))
    return _explain(path, sections[first], rest)


def _explain(path: str, group: Group, rest: list[str]) -> View:
    if not rest:
        return _of_group(group)
    names = {parameter.name: parameter for parameter in group.parameters}
    if rest[0] not in names:
        raise _unknown(path, rest[0], list(names), f"{group.path}.")
    parameter, below = names[rest[0]], rest[1:]
    inner = parameter.sections
    if not below:
        return _of_group(inner[""], parameter) if "" in inner else _of_parameter(group, parameter)
    if "" in inner:
        return _explain(path, inner[""], below)
    if "NAME" in inner:
        return _explain(path, inner["NAME"], below[1:])  # whatever it is called
    if below[0] in inner:
        return _explain(path, inner[below[0]], below[1:])
    if not inner:
        raise UserError(f"{group.path}.{parameter.name} is one value and has no {below[0]!r}: {parameter.kind}")
    raise _unknown(path, below[0], list(inner), f"{group.path}.{parameter.name}.")


def _unknown(path: str, name: str, valid: list[str], before: str = "") -> UserError:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {before}{close[0]}?" if close else f"valid: {', '.join(valid)}"
    return UserError(f"no parameter {path}; {hint}")


def _contents() -> View:
    summaries = {"run": "what holds for every stage"} | {name: get_stage(name).summary for name in STAGES}
    table = new_table("sections of params.yaml; limbeck explain SECTION tells more")
    table.add_column("section", no_wrap=True)
    table.add_column("what it is")
    for name, summary in summaries.items():
        add_row(table, styled(name, "bold"), summary)
    return View({"sections": [{"path": name, "about": summary} for name, summary in summaries.items()]}, [table])


def _of_group(group: Group, at: Parameter | None = None) -> View:
    table = new_table(group.path)
    for name in ("key", "value", "default"):
        table.add_column(name, no_wrap=name == "key", overflow="fold")
    table.add_column("what it is", overflow="fold", ratio=1)
    for one in group.parameters:
        about = one.about if not _is_docstring_of(group, one) else ""
        add_row(table, styled(one.name, "bold"), _value(one), one.default, about or _further(group, one))
    parts: list[RenderableType] = [table]
    text = "\n\n".join(filter(None, ["" if at is None else at.about, _own_words(group)]))
    if text:
        parts.append(cell(_filled(text)))
    return View({"path": group.path, "about": text, "keys": [_form(group, one) for one in group.parameters]}, parts)


def _of_parameter(group: Group, parameter: Parameter) -> View:
    form = _form(group, parameter)
    table = new_table(form["path"], show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name in ("kind", "limits", "default", "about"):
        if form[name]:
            add_row(table, styled(name, "bold"), form[name])
    if parameter.sections:
        add_row(table, styled("more", "bold"), _further(group, parameter))
    return View(form, [table])


def _form(group: Group, parameter: Parameter) -> dict[str, Any]:
    return {
        "path": f"{group.path}.{parameter.name}",
        "kind": parameter.kind,
        "limits": parameter.limits,
        "default": parameter.default,
        "about": parameter.about,
        "sections": [inner.path for inner in parameter.sections.values()],
    }


def _value(parameter: Parameter) -> str:
    return f"{parameter.kind}, {parameter.limits}" if parameter.limits else parameter.kind


def _further(group: Group, parameter: Parameter) -> str:
    return ", ".join(f"limbeck explain {inner.path}" for inner in parameter.sections.values())


def _is_docstring_of(group: Group, parameter: Parameter) -> bool:
    """Whether what is known of a key stands in the text below the table anyway."""
    return bool(parameter.about) and parameter.about in " ".join(group.about.split())


def _own_words(group: Group) -> str:
    """A model's docstring, without a first line that only names the section."""
    first, _, rest = group.about.partition("\n")
    return rest.strip() if first.startswith("Parameters of ") else group.about


def _filled(text: str) -> str:
    """A docstring with its own line breaks taken out, paragraphs and lists left."""
    parts = text.replace("\n- ", "\n\n- ").split("\n\n")
    return "\n".join(" ".join(part.split()) for part in parts)


def page() -> str:
    """`docs/params.md`."""
    parts = [PAGE_HEAD]
    seen: dict[type, tuple[str, Mapping[str, str]]] = {}
    for name, group in groups().items():
        summary = group.about if name == "run" else f"{get_stage(name).summary}."
        parts += [f"## {name}", "", summary[:1].upper() + summary[1:], ""]
        for inner in group.walk():
            if not inner.path.startswith("ingest.sources.composed.base."):
                parts += _page_of(inner, seen, top=inner is group)
    return "\n".join(parts).rstrip() + "\n"


def _page_of(group: Group, seen: dict[type, tuple[str, Mapping[str, str]]], top: bool) -> Iterator[str]:
    if not top:
        yield f"### {group.path}"
        yield ""
    defaults = {one.name: one.default for one in group.parameters}
    if group.model in seen:  # written out once; what differs elsewhere is where its defaults do
        path, before = seen[group.model]
        other = [f"`{name}: {value}`" for name, value in defaults.items() if value != before[name]]
        yield f"As `{path}`" + (f", with {', '.join(other)}." if other else ".")
        yield ""
        return
    seen[group.model] = (group.path, defaults)
    text = "" if group.path == "run" else _filled(_own_words(group))
    if text:
        yield text.replace("\n", "\n\n").replace("\n\n- ", "\n- ")
        yield ""
    yield "| key | value | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for one in group.parameters:
        about = "" if _is_docstring_of(group, one) else one.about
        default = "required" if one.default == "required" else f"`{one.default}`"
        cells = (f"`{one.name}`", _value(one), "" if one.default == "a section" else default, about)
        yield f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"
    yield ""
