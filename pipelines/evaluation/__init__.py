"""How products are measured against their controls: a folder for each product, and what they share beside the folders.

A folder has `params.py`, whose `PARAMS` is the model of its section of params.yaml, and `evaluation.py`, whose `EVALUATION` keeps the
protocol of `pipelines.evaluation.protocol`; a folder that is added joins by being there. A package from elsewhere with the same two
modules joins by an entry in `EVALUATIONS`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import Section
    from pipelines.evaluation.protocol import Evaluation


def folders() -> dict[str, str]:
    """The evaluations that are folders here: name -> package."""
    return {module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.ispkg}


#: Name, which is the item of `evaluate` and its section -> the package that measures it.
EVALUATIONS: dict[str, str] = folders()


def get_evaluation(name: str) -> Evaluation[Any]:
    """Import and return the evaluation of this name."""
    evaluation: Evaluation[Any] = importlib.import_module(f"{EVALUATIONS[name]}.evaluation").EVALUATION
    return evaluation


def params_of(name: str) -> type[Section]:
    """Import and return the parameter model of an evaluation."""
    model: type[Section] = importlib.import_module(f"{EVALUATIONS[name]}.params").PARAMS
    return model
