"""A policy: operations and groups of them, as params.yaml writes them, checked and laid out for drawing.

    policy:
      - resized_crop: {size: 224, scale: [0.08, 1]}
      - horizontal_flip                              # a bare name takes the defaults
      - one_of: [{rotate: {degrees: [-30, 30]}}, invert]
        weights: [2, 1]                              # optional; p: 0.5 would leave half of the samples alone
      - choose: 2                                    # RandAugment: two draws, with replacement unless replace: false
        from: [autocontrast, {shear_x: {degrees: {signed: 9}}}]
      - augmix: [equalize, {rotate: {degrees: {signed: 20}}}]
        width: 3
        depth: 3

or `policy: imagenet`, or `policy: {preset: imagenet, size: 160}`, or a mapping with `operations:` and the settings of
`Policy`. A member of a group may be a list: these are applied together. Groups do
not hold groups. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from augment.errors import PolicyError
from augment.operations import OPERATIONS, Geometric, Identity, Operation, Pointwise
from augment.program import Interpolation

_FAMILIES = {"geometric": 0, "colour": 1, "filter": 2}


@dataclass(frozen=True)
class Leaf:
    """An operation in its place in a policy.

    `path` names it in tables and seeds its draws; `at` is the column of its first number among the policy's: a gate, which says
    whether it acts, and then the operation's own.
    """

    path: str
    operation: Operation
    at: int = 0


@dataclass(frozen=True)
class Pick:
    """One slot of a group: for each sample at most one of some alternatives, each of one leaf or more.

    `path` is the group's, whose `slots` picks are drawn together; `slot` says which of them this is. `bounds` are the upper ends of
    the alternatives' shares of [0, 1), `p` the share of samples that the group acts on, `replace` whether an alternative may be
    picked twice. The group's numbers begin in column `at`: a gate, then one for each slot, or one for each alternative where
    none may be picked twice.
    """

    path: str
    alternatives: tuple[tuple[Leaf, ...], ...]
    bounds: tuple[float, ...]
    p: float
    slot: int
    slots: int
    replace: bool
    at: int = 0

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every leaf, alternatives of one family side by side so that they fuse; at most one alternative acts on a sample."""
        ordered = sorted(self.alternatives, key=lambda leaves: _FAMILIES[leaves[0].operation.family])
        return tuple(leaf for leaves in ordered for leaf in leaves)


@dataclass(frozen=True)
class AugMix:
    """AugMix (Hendrycks et al. 2020): chains of picks, blended with each other and with the image, for a share `p` of samples.

    `alpha` is that of the Dirichlet and the Beta distribution. Its numbers begin in column `at`: a gate, a seed for both
    distributions, and for each chain how many of its picks are used.
    """

    path: str
    chains: tuple[tuple[Pick, ...], ...]
    alpha: float
    p: float
    at: int = 0


Node = Leaf | Pick | AugMix


@dataclass(frozen=True, eq=False)
class Policy:
    """What is drawn and in which order, as `load` reads it.

    `numbers` lists what needs uniform numbers, and how many each: their columns, in order. `interpolation` is for all resampling,
    `antialias` filters resizes that shrink, `fill` in [0, 1] lies beyond the frame. `siamese`: every sample of a batch gets the
    same draw (as in DSA: Zhao and Bilen 2021), which then follows from seed, epoch and view alone.
    """

    nodes: tuple[Node, ...]
    numbers: tuple[tuple[str, int], ...]
    name: str = "policy"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fill: float = 0.0
    siamese: bool = False

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every leaf, in order."""
        leaves: list[Leaf] = []
        for node in self.nodes:
            if isinstance(node, Leaf):
                leaves.append(node)
            elif isinstance(node, Pick):
                leaves.extend(node.leaves)
            else:
                leaves.extend(leaf for chain in node.chains for pick in chain for leaf in pick.leaves)
        return tuple(leaves)

    @cached_property
    def layout(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The names that are drawn for, and for each column the place of its name and its place in that name's sequence, from 1."""
        owners = np.concatenate([np.full(count, i) for i, (_, count) in enumerate(self.numbers)] or [np.zeros(0, int)])
        steps = np.concatenate([np.arange(1, count + 1) for _, count in self.numbers] or [np.zeros(0, int)])
        return [name for name, _ in self.numbers], owners.astype(np.int64), steps.astype(np.uint64)

    @cached_property
    def needs_colour(self) -> bool:
        """Whether anything but geometry may be done, which takes RGB."""
        return any(leaf.operation.family != "geometric" for leaf in self.leaves)

    @cached_property
    def ends_in_colour(self) -> bool:
        """Whether the last thing that may be done is pointwise, so that a normalisation can be folded into it."""
        if self.nodes and isinstance(self.nodes[-1], AugMix):
            return False
        acting = [leaf.operation for leaf in self.leaves if not isinstance(leaf.operation, Identity)]
        return bool(acting) and isinstance(acting[-1], Pointwise)

    @cached_property
    def rolls(self) -> bool:
        """Whether an image may be rolled, which cuts boxes in two."""
        return any(leaf.operation.name == "roll" and leaf.operation.ever for leaf in self.leaves)

    @cached_property
    def blends_geometry(self) -> bool:
        """Whether images that moved differently may be blended, which no target can follow."""
        return any(
            isinstance(leaf.operation, Geometric) and leaf.operation.ever
            for node in self.nodes
            if isinstance(node, AugMix) and node.p > 0
            for chain in node.chains
            for pick in chain
            for leaf in pick.leaves
        )

    def size_after(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what comes out of images of `size`."""
        for leaf in self.leaves:
            size = leaf.operation.size_after(size)
        return size


_SETTINGS = ("operations", "name", "interpolation", "antialias", "fill", "siamese")


def load(spec: Any) -> Policy:
    """Read a policy from params.yaml: a preset's name, a mapping or a list, as the module's docstring has them. Raises `PolicyError`."""
    from augment import presets

    if isinstance(spec, Policy):
        return spec
    _require_plain(spec, "a policy")
    if isinstance(spec, str):
        spec = {"preset": spec}
    if isinstance(spec, Mapping) and "preset" in spec:
        options = {str(word): value for word, value in spec.items() if word != "preset"}
        spec = presets.build(spec["preset"], options)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        spec = {"operations": spec}
    if not isinstance(spec, Mapping) or "operations" not in spec:
        raise PolicyError(
            f"a policy is a preset's name, a list of operations or a mapping with operations, got {spec!r}"
        )
    settings = dict(spec)
    for word in settings:
        if word not in _SETTINGS:
            raise PolicyError(f"a policy does not take {word!r}; it takes {', '.join(_SETTINGS)}")
    operations = settings.pop("operations")
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise PolicyError(f"a policy's operations are a list, got {operations!r}")
    _check_settings(settings)
    reader = _Reader()
    nodes = tuple(node for entry in operations for node in reader.read(entry))
    return Policy(nodes, tuple(reader.numbers), **settings)


def _require_plain(part: Any, where: str) -> None:
    """Refuse what YAML reads as another thing than it looks like: keys that are no text, and numbers that are."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if not isinstance(key, str):
                kind = (
                    "a switch" if isinstance(key, bool) else "a number" if isinstance(key, (int, float)) else "no text"
                )
                raise PolicyError(
                    f"{where} has the key {key!r}, which YAML reads as {kind} (bare on, off, yes, no and numbers are none); names of "
                    "operations and settings are text, and can stand in quotes"
                )
            if key != "name":  # what a policy is called may look like anything
                _require_plain(value, key)
    elif isinstance(part, str) and _is_number(part):
        raise PolicyError(
            f"{where} got the text {part!r}, where YAML wants a number with a point: write {float(part)!r}"
        )
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for one in part:
            _require_plain(one, where)


def _is_number(text: str) -> bool:
    """Whether Python would read a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of `Policy` that are not what they should be."""
    if settings.get("interpolation", "bilinear") not in get_args(Interpolation):
        raise PolicyError(
            f"interpolation takes {' | '.join(get_args(Interpolation))}, got {settings['interpolation']!r}"
        )
    for switch in ("antialias", "siamese"):
        if not isinstance(settings.get(switch, True), bool):
            raise PolicyError(f"{switch} takes true or false, got {settings[switch]!r}")
    fill = settings.get("fill", 0.0)
    if isinstance(fill, bool) or not isinstance(fill, (int, float)) or not 0 <= fill <= 1:
        raise PolicyError(f"fill takes a colour in 0 to 1, got {fill!r}")


Group = Literal["one_of", "choose", "augmix"]
_GROUP_WORDS: dict[str, tuple[str, ...]] = {
    "one_of": ("weights", "p"),
    "choose": ("from", "weights", "p", "replace"),
    "augmix": ("width", "depth", "alpha", "p"),
}


class _Reader:
    """Reads the entries of a policy, and gives each a path of its own and columns of numbers."""

    def __init__(self) -> None:
        self.numbers: list[tuple[str, int]] = []
        self._columns = 0
        self._used: dict[str, int] = {}

    def read(self, entry: Any) -> list[Node]:
        """Read an operation or a group."""
        if isinstance(entry, Mapping):
            for group in _GROUP_WORDS:
                if group in entry:
                    return self._group(group, dict(entry))
        return [self._leaf("", entry)]

    def _group(self, group: str, entry: dict[str, Any]) -> list[Node]:
        """Read `one_of`, `choose` or `augmix`."""
        unknown = entry.keys() - {group, *_GROUP_WORDS[group]}
        if unknown:
            words = ", ".join(_GROUP_WORDS[group])
            raise PolicyError(f"{group} does not take {sorted(map(str, unknown))[0]!r}; beside it may stand {words}")
        members = entry.get("from") if group == "choose" else entry[group]
        if not isinstance(members, Sequence) or isinstance(members, str) or not members:
            raise PolicyError(f"{group} takes a list of operations, got {members!r}")
        path, p = self._path(group), _share(f"{group}.p", entry.get("p", 1.0))
        bounds = _bounds(group, entry.get("weights"), len(members))
        if group == "augmix":
            width, depth = _whole("augmix.width", entry.get("width", 3)), _whole("augmix.depth", entry.get("depth", 3))
            alpha = entry.get("alpha", 1.0)
            if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
                raise PolicyError(f"augmix.alpha takes a number above 0, got {alpha!r}")
            at = self._reserve(path, 2 + width)
            chains = tuple(
                tuple(self._picks(f"{path}.{chain}", members, bounds, 1.0, depth, True)) for chain in range(width)
            )
            return [AugMix(path, chains, float(alpha), p, at)]
        count = _whole("choose", entry["choose"]) if group == "choose" else 1
        replace = entry.get("replace", True)
        if not isinstance(replace, bool):
            raise PolicyError(f"choose.replace takes true or false, got {replace!r}")
        if not replace and (count > len(members) or entry.get("weights") is not None):
            raise PolicyError(
                f"choose without replacement takes no weights and at most {len(members)} here, got {count}"
            )
        return list(self._picks(path, members, bounds, p, count, replace))

    def _picks(
        self, path: str, members: Sequence[Any], bounds: tuple[float, ...], p: float, count: int, replace: bool
    ) -> list[Pick]:
        """Read the members of a group, once for each of its `count` slots."""
        at = self._reserve(path, 1 + (count if replace else len(members)))
        picks = []
        for slot in range(count):
            prefix = f"{path}.{slot}." if count > 1 else f"{path}."
            alternatives = []
            for member in members:
                together = list(member) if isinstance(member, (list, tuple)) else [member]
                if not together:
                    raise PolicyError(f"{path} has an alternative without an operation; identity does nothing")
                alternatives.append(tuple(self._leaf(prefix, one) for one in together))
                for leaf in alternatives[-1]:
                    if leaf.operation.resizes:
                        raise PolicyError(
                            f"{leaf.operation.name} changes the size of an image, so it cannot be in a group"
                        )
            picks.append(Pick(path, tuple(alternatives), bounds, p, slot, count, replace, at))
        return picks

    def _leaf(self, prefix: str, entry: Any) -> Leaf:
        """Read an operation, whose path begins with that of its group."""
        if isinstance(entry, str):
            name = entry
            settings: Any = {}
        elif isinstance(entry, Mapping) and len(entry) == 1:
            ((name, settings),) = entry.items()
            settings = {} if settings is None else settings
        else:
            raise PolicyError(f"an operation is a name or {{name: {{setting: value}}}}, got {entry!r}")
        if prefix and name in _GROUP_WORDS:
            raise PolicyError(f"a group holds operations, not another group: {name}")
        if name not in OPERATIONS:
            near = get_close_matches(str(name), [*OPERATIONS, *_GROUP_WORDS], 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(OPERATIONS))}"
            raise PolicyError(f"there is no operation {name!r}; {hint}")
        if not isinstance(settings, Mapping):
            raise PolicyError(f"{name} takes settings by name, got {settings!r}")
        operation = OPERATIONS[name].read(settings)
        path = self._path(prefix + name)
        return Leaf(path, operation, self._reserve(path, 1 + operation.count))

    def _path(self, name: str) -> str:
        """A path that nothing else has: the second `invert` is `invert#2`."""
        used = self._used[name] = self._used.get(name, 0) + 1
        return name if used == 1 else f"{name}#{used}"

    def _reserve(self, path: str, count: int) -> int:
        """Reserve columns of numbers; returns the first."""
        at = self._columns
        self.numbers.append((path, count))
        self._columns += count
        return at


def _bounds(group: str, weights: Any, count: int) -> tuple[float, ...]:
    """Turn the weights of a group's members, alike if None, into the upper ends of their shares of [0, 1)."""
    shares = [1.0] * count if weights is None else weights
    numbers = isinstance(shares, Sequence) and all(
        isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf
        for weight in shares
    )
    if not numbers or len(shares) != count or sum(shares) <= 0:
        raise PolicyError(f"{group}.weights takes {count} numbers from 0 on, not all 0, got {weights!r}")
    return tuple(float(end) for end in np.cumsum(shares) / sum(shares))


def _share(where: str, value: Any) -> float:
    """Read a probability."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise PolicyError(f"{where} takes a probability in 0 to 1, got {value!r}")
    return float(value)


def _whole(where: str, value: Any) -> int:
    """Read a whole number from 1 to 64."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 64:
        raise PolicyError(f"{where} takes a whole number from 1 to 64, got {value!r}")
    return value
