"""Medoids: the images nearest to the centres of their class's clusters, as sets that hold one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.clusters import k_means, medoids


def nested_medoids(features: torch.Tensor, counts: Sequence[int], seed: int) -> torch.Tensor:
    """Choose max(counts) of features (n, d): medoids of k-means clusters; return their places (k,) int64.

    For each of `counts`, from the least on, the class is split into as many clusters. A cluster that holds an image chosen before is
    represented by it; of the others the medoids join, in the order in which they cover the class best, until there are as many
    as clusters. So the first n are medoids of n clusters for each n of `counts` but for the places of those chosen before, and in
    between the best covered. The first of one cluster is the image nearest to the class's mean. `DistillError` as `k_means`.
    """
    chosen: list[int] = []
    for count in sorted(set(counts)):
        _, labels = k_means(features, count, seed)
        represented = set(labels[chosen].tolist())
        candidates = [
            place for place in medoids(features, count, seed).tolist() if int(labels[place]) not in represented
        ]
        chosen += candidates[: count - len(chosen)]
    return torch.tensor(chosen)
