"""`limbeck schema`: params.yaml as a JSON Schema, with which editors complete keys, show what they mean and mark what is wrong.

It belongs to the installed version and is not kept in the repository: `limbeck schema > params.schema.json`, and a first line in
params.yaml, `# yaml-language-server: $schema=params.schema.json`.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from pipelines.commands.explain import groups
from pipelines.commands.jobs import section_models
from pipelines.commands.models import Group
from pipelines.stages import STAGES, get_stage

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def params_schema() -> dict[str, Any]:
    """The schema of a whole parameter file; every section may be left out."""
    models = section_models()
    references, definitions = models_json_schema([(model, "validation") for model in models.values()])
    sections = {name: {**references[model, "validation"]} for name, model in models.items()}
    for name in STAGES:
        sections[name]["description"] = get_stage(name).summary
    sections["run"]["description"] = "what holds for every stage"
    named = definitions["$defs"]
    for group in groups().values():
        for inner in group.walk():
            _describe(named.get(inner.model.__name__, {}), inner)
    return {
        "$schema": DIALECT,
        "title": "params.yaml of Limbeck",
        "type": "object",
        # A section that is there and empty has its defaults.
        "properties": {name: {"anyOf": [section, {"type": "null"}]} for name, section in sections.items()},
        "additionalProperties": False,
        "$defs": named,
    }


def _describe(definition: dict[str, Any], group: Group) -> None:
    """Say of every key of a model what `explain` says, in place."""
    for parameter in group.parameters:
        described = definition.get("properties", {}).get(parameter.name)
        if described is not None and parameter.about:
            described.setdefault("description", parameter.about)
