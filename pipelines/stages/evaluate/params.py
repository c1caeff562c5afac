"""Parameters of `evaluate`: a section for every evaluation that there is, each in the evaluation's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from pipelines.config import PLAN_ONLY, Section
from pipelines.evaluation import EVALUATIONS, params_of

#: Parameters of distilled sets that stood in the section itself before there was one for each product.
_MOVED = ("network", "ipc", "seeds", "arms", "soft", "hard", "full")


class EvaluateParams(Section):
    """Parameters of `evaluate`: what is measured is what has a section."""

    effect = PLAN_ONLY  # a payload holds its network's own recipe, so that an arm or a seed more keeps the others

    note: str = Field("", description="what a reader must know about these numbers; printed with them")

    @property
    def asked(self) -> tuple[str, ...]:
        """The evaluations whose section is given."""
        return tuple(name for name in EVALUATIONS if getattr(self, name, None) is not None)

    def only(self, item: str) -> EvaluateParams:
        """These parameters without the sections of other items."""
        return self.model_copy(update={name: None for name in self.asked if name != item})

    @model_validator(mode="before")
    @classmethod
    def _sections_have_moved(cls, raw: Any) -> Any:
        moved = [name for name in _MOVED if isinstance(raw, Mapping) and name in raw]
        if "arms" in moved and not raw["arms"]:
            raise ValueError("arms: [] is not needed: without a section evaluate.distilled no distilled set is read")
        if moved:
            names = ", ".join(moved)
            raise ValueError(
                f"{names} {'is' if len(moved) == 1 else 'are'} of evaluate.distilled now: move "
                f"{'it' if len(moved) == 1 else 'them'} there, such as evaluate.distilled.{moved[0]}"
            )
        return raw

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An evaluation that is not asked for, or not known to others, changes nothing that is recorded."""
        form: dict[str, Any] = handler(self)
        return {name: value for name, value in form.items() if value is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        """The class is built from what is registered, so that a worker builds it too."""
        return _rebuilt, ({name: getattr(self, name) for name in type(self).model_fields},)


def evaluate_params() -> type[EvaluateParams]:
    """The model with a section for every evaluation that is registered now."""
    return _built(tuple(EVALUATIONS.items()))


@cache
def _built(evaluations: tuple[tuple[str, str], ...]) -> type[EvaluateParams]:
    sections: Any = {name: (params_of(name) | None, Field(None, description=_about(name))) for name, _ in evaluations}
    return create_model("EvaluateParams", __base__=EvaluateParams, __doc__=EvaluateParams.__doc__, **sections)


def _about(name: str) -> str:
    return f"{params_of(name).__doc__}".strip().partition("\n")[0].rstrip(".") + "; null leaves it out"


def _rebuilt(values: dict[str, Any]) -> EvaluateParams:
    """From validated values; written out they would hold defaults that a file may not name."""
    return evaluate_params().model_construct(**values)
