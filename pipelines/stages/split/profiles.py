"""Decides profiles: how many images of each class a long-tailed training set has, which, and which images are spoilt.

Which images stay follows from a hash of their keys, so that of two tails over the same order of classes the one with fewer images of
a class has a part of the other's. Whether an image is spoilt, and how, follows from its key alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipelines.artifacts.profiles import SCHEMA
from pipelines.errors import UserError
from pipelines.seeds import hash_ranks, seed_for
from pipelines.stages.split.params import ProfileParams, QualityParams, TailParams
from synth.discl.groups import group_sizes, groups_of


def decide_profile(
    decisions: pa.Table, classes: Sequence[str], name: str, params: ProfileParams, seed: int
) -> pa.Table:
    """Make the decision table of the profile `name` over the training images of `decisions`; see `artifacts.profiles`."""
    train = _train(decisions)
    keys = train["key"].to_pylist()
    labels = np.array([-1 if label is None else label for label in train["label"].to_pylist()], np.int64)
    reasons = np.full(len(keys), "", dtype="<U12")
    reasons[labels < 0] = "no_label"
    if params.tail is not None:
        allowed = tail_counts(_sizes(train, classes), params.tail, name, seed)
        rank = hash_ranks(keys, str(seed_for(seed, "split", "", "profile")))
        for label, count in enumerate(allowed):
            pool = np.flatnonzero(labels == label)
            reasons[pool[np.argsort(rank[pool], kind="stable")][count:]] = "long_tail"
    kept = reasons == ""
    spoilt = _corruptions(keys, params.quality, seed) if params.quality is not None else [None] * len(keys)
    columns = {
        "key": keys,
        "label": train["label"].cast(pa.int32()),
        "decision": np.where(kept, "kept", "dropped").tolist(),
        "reason": [reason or None for reason in reasons.tolist()],
        "corruption": [form if stays else None for form, stays in zip(spoilt, kept, strict=True)],
    }
    return pa.table(columns, schema=SCHEMA)


def require_profiles(
    decisions: pa.Table, classes: Sequence[str], profiles: Mapping[str, ProfileParams], seed: int
) -> None:
    """`UserError` for a profile that asks for a class or a number of images that there is not."""
    sizes = _sizes(_train(decisions), classes)
    for name, params in profiles.items():
        if params.tail is not None:
            tail_counts(sizes, params.tail, name, seed)


def _train(decisions: pa.Table) -> pa.Table:
    return decisions.filter(pa.compute.equal(decisions["decision"], "train"))


def _sizes(train: pa.Table, classes: Sequence[str]) -> dict[str, int]:
    """Training images by class name."""
    labels = train["label"].drop_null().to_numpy()
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def tail_counts(sizes: Mapping[str, int], tail: TailParams, profile: str = "", seed: int = 0) -> list[int]:
    """How many images each class keeps, in the order of the classes: at least one, at most what it has.

    Exponential: class c of C keeps largest * factor^(-c/(C-1)) (Cui et al. 2019). Pareto: quantiles c/(C+1), c = 1..C, of the Lomax
    distribution of this power, from the largest down, stretched to run from largest to largest / factor (Liu et al. 2019).
    """
    if tail.law == "counts":
        return _exact(sizes, tail.counts, profile)
    largest = tail.largest or max(sizes.values(), default=0)
    number = len(sizes)
    if tail.law == "exponential":
        shares = [tail.factor ** (-place / max(number - 1, 1)) for place in range(number)]
    else:
        quantiles = [(1 - (place + 1) / (number + 1)) ** (-1 / tail.power) for place in reversed(range(number))]
        low, high = quantiles[-1], quantiles[0]
        smallest = 1 / tail.factor
        shares = [smallest + (1 - smallest) * (one - low) / ((high - low) or 1) for one in quantiles]
        shares[0] = 1.0
    names = list(sizes)
    order = list(range(number))
    if tail.order == "shuffled":
        order = np.argsort(hash_ranks(names, str(seed_for(seed, "split", "", "tail"))), kind="stable").tolist()
    counts = [0] * number
    for share, label in zip(shares, order, strict=True):
        counts[label] = min(max(int(largest * share), 1), sizes[names[label]])
    return counts


def _exact(sizes: Mapping[str, int], counts: Mapping[str, int], profile: str) -> list[int]:
    """The counts that were asked for; a class that is not named keeps all."""
    where = f"split.profiles.{profile}.tail.counts"
    if unknown := sorted(set(counts) - set(sizes)):
        raise UserError(f"{where} has {unknown[0]!r}, which is no class; there is {', '.join(sizes)}")
    for name, count in counts.items():
        if count > sizes[name]:
            raise UserError(f"{where}: {count} images of class {name}, which has {sizes[name]} in train; ask for fewer")
    return [counts.get(name, size) for name, size in sizes.items()]


def _corruptions(keys: Sequence[str], quality: QualityParams, seed: int) -> list[dict[str, Any] | None]:
    """What is done to the image of each key, None where it stays as it is: four numbers of a key's own decide."""
    chance, kind, severity, noise = (
        hash_ranks(keys, str(seed_for(seed, "split", "", f"corruption {what}")))
        for what in ("chance", "kind", "severity", "seed")
    )
    drawn: list[dict[str, Any] | None] = [None] * len(keys)
    for place in np.flatnonzero(chance / 2.0**64 < quality.share):
        drawn[place] = {
            "kind": quality.kinds[int(kind[place]) % len(quality.kinds)],
            "severity": quality.severities[int(severity[place]) % len(quality.severities)],
            "seed": int(noise[place]) >> 1,
        }
    return drawn


def profile_facts(table: pa.Table, classes: Sequence[str], params: ProfileParams) -> dict[str, Any]:
    """Images by class, classes by group, spoilt images, and the limits of the groups."""
    kept = table.filter(pa.compute.equal(table["decision"], "kept"))
    counts = np.bincount(kept["label"].to_numpy(), minlength=len(classes)).tolist()
    limits = params.groups
    return {
        "counts": counts,
        "groups": group_sizes(groups_of(counts, limits.many, limits.few)),
        "corrupted": kept.num_rows - kept["corruption"].null_count,
        "many": limits.many,
        "few": limits.few,
    }
