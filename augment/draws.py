"""Draws: what a policy does to each sample of a batch, as plain arrays that can be written down and read back exactly; and the
program that carries them out.

Every number follows from (seed, epoch, view, key, operation) alone: batch size, order, worker and rank change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from augment.errors import PolicyError
from augment.operations import Geometric, Identity, Local, Pointwise
from augment.policy import AugMix, Leaf, Pick, Policy
from augment.program import Blend, Colour, ColourStep, Segment, Warp, WarpStep
from augment.seeds import Keys, key_names, operation_seeds, sample_seeds, uniforms

Size = tuple[int, int]
Row = dict[str, dict[str, Any]]
_ROUNDING = 1e-6  # what a sum of shares of an epoch may be beyond the end of training


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """One batch's draws of a policy, for `count` images of `size` (height, width).

    `on[path]` (n,) bool says where a leaf acts; `values[path]` has its values by name, arrays of n rows, 0 where it does not act.
    """

    policy: Policy
    size: Size
    count: int
    on: dict[str, np.ndarray]
    values: dict[str, dict[str, np.ndarray]]

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> Row:
        """Write down what is done to one sample: {path: {value: number or list}}, only what acts; JSON holds it exactly."""
        return {
            path: {name: column[index].tolist() for name, column in self.values[path].items()}
            for path, on in self.on.items()
            if on[index]
        }

    def rows(self) -> list[Row]:
        """Write down what is done to every sample, a `row` each."""
        return [self.row(index) for index in range(self.count)]


def draw(
    policy: Policy, keys: Keys, size: Size, *, seed: int = 0, epoch: int = 0, view: int = 0, progress: float = 1.0
) -> Draws:
    """Draw what a policy does to images of `size` (height, width) with these keys; `progress` in [0, 1] moves schedules.

    Raises `PolicyError` for an empty batch, a progress beyond training, or a size that an operation cannot take.
    """
    names = keys if isinstance(keys, np.ndarray) and keys.ndim == 1 else key_names(keys)
    if len(names) == 0:
        raise PolicyError("the batch is empty: there is nothing to augment")
    if not -_ROUNDING <= progress <= 1 + _ROUNDING:
        raise PolicyError(f"progress takes the share of training done, 0 to 1, got {progress!r}")
    return _Drawing(policy, names, size, seed, epoch, view, min(max(progress, 0.0), 1.0)).run()


class _Drawing:
    """Draws all uniform numbers of a batch at once, (n, columns of the policy), then turns each node's columns into values.

    `at` is the size of the image at the node in hand.
    """

    def __init__(
        self, policy: Policy, keys: Keys, size: Size, seed: int, epoch: int, view: int, progress: float
    ) -> None:
        self.policy, self.size, self.progress, self.count = policy, size, progress, len(keys)
        seeds = sample_seeds(seed, ["siamese"] if policy.siamese else keys, epoch, view)
        names, owners, steps = policy.layout
        numbers = uniforms(operation_seeds(seeds, names)[:, owners], steps)
        self.numbers = np.broadcast_to(numbers, (self.count, len(owners))) if policy.siamese else numbers
        self.at = size
        self.on: dict[str, np.ndarray] = {}
        self.values: dict[str, dict[str, np.ndarray]] = {}

    def run(self) -> Draws:
        """Draw every node in turn."""
        for node in self.policy.nodes:
            if isinstance(node, Leaf):
                self._leaf(node, None)
            elif isinstance(node, Pick):
                self._pick(node, None)
            else:
                self._mix(node)
        return Draws(self.policy, self.size, self.count, self.on, self.values)

    def _leaf(self, leaf: Leaf, gate: np.ndarray | None) -> None:
        """Draw an operation; where the gate (n,) of its group is shut it does not act."""
        operation = leaf.operation
        operation.check_size(self.at)
        on = operation.gate(self.numbers[:, leaf.at], self.progress)
        if gate is not None:
            on = on & gate
        numbers = self.numbers[:, leaf.at + 1 : leaf.at + 1 + operation.count]
        values = operation.draw(numbers, self.at, self.progress)
        if not on.all():
            for name, column in values.items():
                values[name] = np.where(on.reshape(-1, *(1,) * (column.ndim - 1)), column, np.zeros((), column.dtype))
        self.on[leaf.path], self.values[leaf.path] = on, values
        self.at = operation.size_after(self.at)

    def _pick(self, pick: Pick, gate: np.ndarray | None) -> None:
        """Choose one alternative for each sample and draw all, each for the samples that have it."""
        on = self.numbers[:, pick.at] < pick.p
        if gate is not None:
            on = on & gate
        if pick.replace:
            chosen = np.searchsorted(pick.bounds, self.numbers[:, pick.at + 1 + pick.slot], side="right")
        else:
            columns = self.numbers[:, pick.at + 1 : pick.at + 1 + len(pick.alternatives)]
            chosen = columns.argsort(1, kind="stable")[:, pick.slot]
        for index, leaves in enumerate(pick.alternatives):
            for leaf in leaves:
                self._leaf(leaf, on & (chosen == index))

    def _mix(self, mix: AugMix) -> None:
        """Draw the weights and the share of AugMix, and its chains, each as deep as its own number says."""
        on = self.numbers[:, mix.at] < mix.p
        weights = np.zeros((self.count, len(mix.chains)), np.float32)
        share = np.zeros(self.count, np.float32)
        for index in np.flatnonzero(on):
            generator = np.random.Generator(np.random.PCG64(int(self.numbers[index, mix.at + 1] * 2.0**53)))
            weights[index] = generator.dirichlet([mix.alpha] * len(mix.chains))
            share[index] = generator.beta(mix.alpha, mix.alpha)
        self.on[mix.path], self.values[mix.path] = on, {"weights": weights, "share": share}
        for place, chain in enumerate(mix.chains):
            depth = np.floor(self.numbers[:, mix.at + 2 + place] * len(chain))
            for slot, pick in enumerate(chain):
                self._pick(pick, on & (slot <= depth))


def from_rows(policy: Policy, size: Size, rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> Draws:
    """Read the draws that `Draws.row` wrote down, to the bit. Raises `PolicyError` where they are not this policy's."""
    blank = draw(policy, list(range(len(rows))), size)
    unknown = {path for row in rows for path in row} - blank.on.keys()
    if unknown:
        raise PolicyError(f"recorded draws name {sorted(unknown)[0]!r}, which the policy {policy.name} does not have")
    values: dict[str, dict[str, np.ndarray]] = {}
    for path, columns in blank.values.items():
        values[path] = {name: np.zeros_like(column) for name, column in columns.items()}
        for index, row in enumerate(rows):
            if path in row:
                if row[path].keys() != columns.keys():
                    raise PolicyError(
                        f"recorded draws of {path} have {sorted(row[path])}, the policy draws {sorted(columns)}"
                    )
                for name, column in values[path].items():
                    column[index] = row[path][name]
    on = {path: np.array([path in row for row in rows], bool) for path in blank.on}
    return Draws(policy, size, len(rows), on, values)


def program(draws: Draws, colour_last: bool = False) -> tuple[Segment, ...]:
    """Lay out draws as the segments that a backend carries out: neighbours of one family together, without what acts on no sample.

    A step acts where its operation is on and is nothing elsewhere, so a sample's own steps are all that it goes through.
    `colour_last`: the colours that end a policy are a segment even where none is on, for a normalisation to be folded into.
    """
    builder = _Builder(draws)
    for node in draws.policy.nodes:
        if isinstance(node, AugMix):
            builder.mix(node)
        else:
            for leaf in (node,) if isinstance(node, Leaf) else node.leaves:
                builder.leaf(leaf)
    return builder.done(colour_last)


class _Builder:
    """The program so far: finished segments, and the warps or colours of the segment that is still open."""

    def __init__(self, draws: Draws, size: Size | None = None) -> None:
        self.draws, self.size = draws, size or draws.size
        self.segments: list[Segment] = []
        self.warps: list[WarpStep] = []
        self.colours: list[ColourStep] = []
        self.size_in = self.size

    def leaf(self, leaf: Leaf) -> None:
        """Add an operation to the open segment, or end that and begin another."""
        operation, on = leaf.operation, self.draws.on[leaf.path]
        if isinstance(operation, Identity):
            return
        values = self.draws.values[leaf.path]
        # Where segments end follows from the policy alone, so that a sample's does not depend on its batch.
        if not isinstance(operation, Geometric):
            self._flush_warps()
        if not isinstance(operation, Pointwise):
            self._flush_colours()
        if not (operation.resizes or on.any()):
            return
        if isinstance(operation, Geometric):
            if not self.warps:
                self.size_in = self.size
            acts = None if operation.resizes or on.all() else on
            steps = operation.steps(values, on, self.size)
            self.warps.extend(steps if acts is None else [replace(step, on=acts) for step in steps])
            self.size = operation.size_after(self.size)
        elif isinstance(operation, Pointwise):
            self.colours.append(operation.step(values, on))
        else:
            assert isinstance(operation, Local)
            self.segments.append(operation.step(values, on, self.size))

    def mix(self, mix: AugMix) -> None:
        """Add AugMix, each of its chains a program of its own."""
        on = self.draws.on[mix.path]
        self._flush()
        if not on.any():
            return
        chains = []
        for chain in mix.chains:
            inner = _Builder(self.draws, self.size)
            for pick in chain:
                for leaf in pick.leaves:
                    inner.leaf(leaf)
            chains.append(inner.done())
        values = self.draws.values[mix.path]
        self.segments.append(Blend(tuple(chains), values["weights"], values["share"], on))

    def done(self, colour_last: bool = False) -> tuple[Segment, ...]:
        """End the open segment and return all."""
        idle = colour_last and not self.colours
        self._flush()
        return (*self.segments, Colour(())) if idle else tuple(self.segments)

    def _flush(self) -> None:
        """End the open segment."""
        self._flush_warps()
        self._flush_colours()

    def _flush_warps(self) -> None:
        """End the open segment if it is geometry."""
        if self.warps:
            policy = self.draws.policy
            on = np.logical_or.reduce([step.acts() for step in self.warps])
            self.segments.append(
                Warp(self.size_in, tuple(self.warps), on, policy.interpolation, policy.antialias, policy.fill)
            )
            self.warps = []

    def _flush_colours(self) -> None:
        """End the open segment if it is colour."""
        if self.colours:
            self.segments.append(Colour(tuple(self.colours)))
            self.colours = []
