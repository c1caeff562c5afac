"""The operations a policy may name. No torch here: a params.yaml with a policy is checked before anything heavy loads."""

from __future__ import annotations

from augment.operations import base, colours, filters, geometric
from augment.operations.base import Geometric, Identity, Local, Operation, Pointwise

OPERATIONS: dict[str, type[Operation]] = {
    found.name: found
    for module in (base, geometric, colours, filters)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Operation) and "name" in vars(found)
}

__all__ = ["OPERATIONS", "Geometric", "Identity", "Local", "Operation", "Pointwise"]
