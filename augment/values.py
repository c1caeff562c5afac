"""Checks of what the fields of a frozen dataclass of parameters hold: listed words, whole numbers, finite numbers; and of tensors.

A dataclass by itself takes anything, and a comparison such as `value <= 0` lets NaN through: every parameter class of the method
packages asks here first, and compares afterwards. Imports no torch: parameter files need it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from augment.errors import MethodError

if TYPE_CHECKING:
    import torch

#: No parameter means anything beyond this, and optimisers that multiply it stay within float32. (NaN is not below it, either.)
LARGEST = 1e30
#: Means of channels lie within it, deviations between one over it and it: what is divided by them stays a number in any layer.
WIDEST = 1e6


def require_values(config: object, error: type[ValueError] = MethodError) -> None:
    """Refuse, as `error`, a word that a `Literal` field does not list, what is no whole number in an `int` field, and what is no
    finite number in a `float` field; in tuples and unions too. Fields of other types are left to whoever reads them."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is ClassVar:
            continue
        value = getattr(config, name)
        if not _fits(value, hint):
            raise error(f"{name} takes {_words_for(hint)}, got {value!r}")


def require_spread(mean: Any, std: Any, error: type[ValueError] = MethodError) -> None:
    """Refuse a mean and a deviation, per channel, that leave no images of what they are taken from and divided by."""
    if not all(abs(value) <= WIDEST for value in mean):  # NaN is not, either
        raise error(f"mean takes finite numbers up to {WIDEST:g}, got {list(mean)}")
    if not all(1 / WIDEST <= value <= WIDEST for value in std):
        raise error(f"std takes finite numbers above 0, from {1 / WIDEST:g} to {WIDEST:g}, got {list(std)}")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Name the first tensor that holds NaN or infinity, None where all are finite; waits for the device once."""
    broken = {name: ~value.isfinite().all() for name, value in tensors.items() if value.is_floating_point()}
    if not broken or not bool(sum(flag.int() for flag in broken.values())):
        return None
    return next(name for name, flag in broken.items() if bool(flag))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a type hint says, of the kinds that `require_values` checks."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is int:
        return isinstance(value, Integral)
    if hint is float:
        return isinstance(value, Real) and abs(float(value)) <= LARGEST
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(kinds) == len(value) and all(_fits(*pair) for pair in zip(value, kinds, strict=True))
    if hint is type(None):
        return value is None
    return origin is not tuple and not isinstance(value, float)


def _words_for(hint: Any) -> str:
    """Say in words what a type hint takes."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words_for(one) for one in inner)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"a list, each {_words_for(inner[0])}"
        return f"{len(inner)} values, each {_words_for(inner[0])}"
    plain = {int: "a whole number", float: "a finite number", type(None): "null", bool: "true | false", str: "a text"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))
