"""The operations a policy may name. No torch here: a params.yaml with a policy is checked before anything heavy loads."""

from __future__ import annotations

from augment.operations import base, colours, filters, geometric
from augment.operations.base import Geometric, Identity, Local, Operation, Pointwise

#: Every operation by its name in params.yaml: the classes of these modules that have a name of their own.
OPERATIONS: dict[str, type[Operation]] = {
    kind.name: kind
    for module in (base, geometric, colours, filters)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Operation) and "name" in vars(kind)
}

__all__ = ["OPERATIONS", "Geometric", "Identity", "Local", "Operation", "Pointwise"]
