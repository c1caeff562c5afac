"""The choice of a group of latents that stands for a class, for many classes at once.

Slots: a set of fewer images per class is the head of a larger one. Members are therefore ordered so that every head is as near to
the class's mean as a greedy choice can bring it, and heads of ten, twenty, ... are matched groups of their own
(`noise`); components of a mixture and medoids come in the order in which they cover the class best. `random` and
`mode: reference` keep the order of their draws: heads of a searched group are no searched groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distill.clusters import cluster_medoids, k_means
from distill.d3hr.config import SelectConfig
from distill.d3hr.models import ClassModel
from distill.d3hr.noise import antithetic, draw, head_order, require_finite, standardise
from distill.d3hr.scores import Scores, score
from distill.d3hr.search import search
from distill.errors import DistillError


@dataclass(frozen=True)
class Group:
    """The latents (ipc, D) float32 that stand for one class, in the order of their slots, and the parts of their score.

    `weights` (ipc,) float32 sum to 1: the share of the class that each member stands for. `components` (ipc,) int64: the component
    of the class model that it comes from. `images` (ipc,) int64, of medoids only: which image of the class it is.
    `candidate`, of a search only: the place of the winner among the draws.
    """

    latents: torch.Tensor
    scores: Scores
    weights: torch.Tensor
    components: torch.Tensor
    images: torch.Tensor | None = None
    candidate: int | None = None


def select(
    models: Sequence[ClassModel], ipc: int, config: SelectConfig, seed: int, class_seeds: Sequence[int]
) -> list[Group]:
    """Choose `ipc` latents for each class model, all of the same D.

    `class_seeds`, one for each model, decide the noise of `noise: per_class`; `seed` decides that of `global`, and the draws that a
    search makes for all classes. It has to be the same wherever classes of one set are selected. `mode: reference` adds it to
    the published seeds: 0 is the published set. A class's group depends on nothing else of the other classes.

    Of one image per class nothing can be matched: it is mean + deviation * noise, and a search goes by the distance of the mean.
    `DistillError` for ipc below 1, a group of medoids (`medoid_group` takes images), fewer images than components, and
    what the published code cannot do.
    """
    config = config.settled()
    config.require_members(ipc)
    if len(class_seeds) != len(models):
        raise DistillError(f"each class model takes a seed, got {len(models)} models and {len(class_seeds)} seeds")
    if config.group == "medoids":
        raise DistillError("group medoids takes images of a class instead of its model: call medoid_group")
    for model in models:
        for name in ("weights", "means", "variances", "factors"):
            require_finite(name, getattr(model, name))
    if config.group == "best_of":
        winners = search(models, ipc, config, seed, class_seeds)
        return [_winner(model, *winner, config) for model, winner in zip(models, winners, strict=True)]
    seeds = class_seeds if config.noise == "per_class" else [seed] * len(models)
    return [_drawn(model, ipc, config, own) for model, own in zip(models, seeds, strict=True)]


def medoid_group(clean: torch.Tensor, latents: torch.Tensor, model: ClassModel, ipc: int, seed: int) -> Group:
    """Choose the medoids of a class's `clean` latents (n, ...) and return their `latents` (n, ...) at the level as the group.

    Each stands for the share of images in its cluster. `DistillError` for fewer images than ipc.
    """
    if len(clean) < ipc:
        raise DistillError(
            f"{ipc} medoids need as many images of the class, which has {len(clean)}; set ipc to {len(clean)} or less"
        )
    _, labels = k_means(clean.flatten(1), ipc, seed)
    images = cluster_medoids(clean.flatten(1), labels)
    members = latents.flatten(1)[images].float()
    weights = labels.bincount(minlength=ipc).float() / len(clean)
    scores = score(members, model.mean, model.variance.sqrt())
    return Group(members, scores, weights, torch.zeros(ipc, dtype=torch.int64), images=images)


def _drawn(model: ClassModel, ipc: int, config: SelectConfig, seed: int) -> Group:
    """Draw one group from a model and match it to the class as `config.group` says."""
    rank, dimensions = model.factors.shape
    noise = draw(ipc, dimensions + rank, seed).double()
    components = allocate(model.weights, ipc)
    members = model.means.double()[components] + model.variances.double().sqrt()[components] * noise[:, :dimensions]
    members += noise[:, dimensions:] @ model.factors.double()
    if config.group != "random":
        mean, deviation = model.mean.double(), model.variance.double().sqrt()
        standard = (members - mean) / torch.where(deviation > 0, deviation, 1)
        matched = standardise(standard) if config.group == "standardised" else antithetic(standard)
        members = mean + deviation * matched
        if len(model.weights) == 1:
            members = members[head_order(members, mean)]
    return _group_of(members, model, components)


def _winner(model: ClassModel, members: torch.Tensor, candidate: int, config: SelectConfig) -> Group:
    """Put the members that a search found in the order of their slots."""
    if config.mode == "improved":
        members = members[head_order(members, model.mean)]
    return _group_of(members, model, torch.zeros(len(members), dtype=torch.int64), candidate)


def _group_of(
    members: torch.Tensor, model: ClassModel, components: torch.Tensor, candidate: int | None = None
) -> Group:
    """Score members (ipc, D) and weigh them by the components they come from."""
    weights = model.weights[components] / components.bincount(minlength=len(model.weights))[components]
    scores = score(members, model.mean, model.variance.sqrt())
    return Group(members.float(), scores, weights / weights.sum(), components, candidate=candidate)


def allocate(weights: torch.Tensor, ipc: int) -> torch.Tensor:
    """Share `ipc` members among components by their weights (k,), one each at least; return components (ipc,) int64 in turns.

    The first member of each component comes first, in the order of the components; then the second ones. `DistillError`
    for fewer members than components.
    """
    components = len(weights)
    if ipc < components:
        raise DistillError(
            f"each of {components} components takes an image, and there are {ipc}; set components to {ipc} or less"
        )
    counts = torch.ones(components, dtype=torch.int64)
    for _ in range(ipc - components):
        counts[int((weights.double() / counts).argmax())] += 1
    turns = [torch.arange(components)[counts > turn] for turn in range(int(counts.max()))]
    return torch.cat(turns)
