"""Clusters of points: k-means and the medoids of its clusters, the same on every call with the same seed.

Lloyd's iterations from greedy k-means++ centres (Arthur and Vassilvitskii 2007), in float64 on the device of the points.
Every cluster holds at least one point, and clusters are numbered so that each head of them covers the points as well as a
greedy choice can: the centres 0..j-1 of k are what to take when fewer than k are wanted.
"""

from __future__ import annotations

import torch

from distill.errors import DistillError

#: Lloyd's iterations end when no label changes, and here at the latest: between points that coincide they may go in a circle.
ITERATIONS = 100


def k_means(points: torch.Tensor, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split points (n, d) into k clusters; return their centres (k, d) float32 and each point's label (n,) int64.

    A cluster that loses all points takes the one farthest from its centre among clusters of two or more, so that k
    clusters are k sets of points even where points coincide. `DistillError` for k below 1, n below k, d of 0, or a point
    that is not finite.
    """
    exact = _required(points, k)
    centres = _first_centres(exact, k, torch.Generator().manual_seed(seed))
    labels = _assign(exact, centres)
    for _ in range(ITERATIONS):
        centres = _means(exact, labels, k)
        moved = _assign(exact, centres)
        if torch.equal(moved, labels):
            break
        labels = moved
    centres = _means(exact, labels, k)
    order = _covering_order(_squared_distances(exact, centres))
    place = torch.empty_like(order)
    place[order] = torch.arange(k, device=order.device)
    return centres[order].float(), place[labels]


def medoids(points: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """Choose k of points (n, d): the one nearest to the centre of each cluster of `k_means`; return indices (k,) int64, distinct.

    The order is that of the clusters: each head of it covers the points as well as a greedy choice among the clusters can.
    Of points as near, the first. Errors as `k_means`.
    """
    return cluster_medoids(points, k_means(points, k, seed)[1])


def cluster_medoids(points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the index (k,) int64 of the point nearest to the mean of each cluster, given each point's label (n,), none empty."""
    exact, k = points.detach().double(), int(labels.max()) + 1
    own = (exact - _means(exact, labels, k)[labels]).square().sum(1)
    distances = own.new_full((len(own), k), torch.inf)
    distances[torch.arange(len(own), device=own.device), labels] = own
    return distances.argmin(0)


def _required(points: torch.Tensor, k: int) -> torch.Tensor:
    """Return points as float64; refuse what cannot be split into k clusters."""
    if points.ndim != 2 or not points.shape[1]:
        raise DistillError(f"clusters take points (n, d), got shape {tuple(points.shape)}")
    if not 1 <= k <= len(points):
        raise DistillError(f"{k} clusters need at least as many points and at least one, got {len(points)} points")
    exact = points.detach().double()
    broken = (~exact.isfinite()).any(1).nonzero()[:, 0]
    if len(broken):
        raise DistillError(f"{len(broken)} of {len(points)} points are not finite, the first is point {int(broken[0])}")
    return exact


def _squared_distances(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Compute squared distances (n, k) by one product; rounding leaves none below 0."""
    middle = points.mean(0)  # about it the product loses no digits to a common offset
    points, centres = points - middle, centres - middle
    products = points @ centres.T
    return (points.square().sum(1, keepdim=True) - 2 * products + centres.square().sum(1)).clamp_min(0)


def _first_centres(points: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """Choose k points by greedy k-means++: of 2 + log2(k) draws by squared distance, the one that leaves the least of it."""
    draws = 2 + k.bit_length()
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen, taken = [first], torch.zeros(len(points), dtype=torch.bool, device=points.device)
    nearest = _squared_distances(points, points[first : first + 1])[:, 0]
    for _ in range(1, k):
        taken[chosen[-1]] = True
        mass = nearest.masked_fill(taken, 0)
        if not float(mass.sum()) > 0:
            mass = (~taken).double()  # the points that are left coincide with centres
        marks = torch.rand(draws, dtype=torch.float64, generator=generator).to(points.device) * mass.sum()
        # A mark that rounding puts on the end would fall on a point of no mass.
        last = int(mass.nonzero()[-1])
        tried = torch.searchsorted(mass.cumsum(0), marks, right=True).clamp_max(last)
        left = torch.minimum(nearest[:, None], _squared_distances(points, points[tried]))
        best = int(left.sum(0).argmin())
        chosen.append(int(tried[best]))
        nearest = left[:, best]
    return points[chosen]


def _assign(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Label each point with its nearest centre, the first of equals; then give every empty cluster a point."""
    distances = _squared_distances(points, centres)
    near, labels = distances.min(1)
    sizes = labels.bincount(minlength=len(centres))
    for empty in (sizes == 0).nonzero()[:, 0].tolist():
        shared = near.masked_fill(sizes[labels] < 2, -1)
        farthest = int(shared.argmax())
        sizes[labels[farthest]] -= 1
        labels[farthest], near[farthest] = empty, -1
        sizes[empty] = 1
    return labels


def _means(points: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Compute the mean (k, d) of each cluster, none of them empty."""
    members = torch.zeros(k, len(points), dtype=points.dtype, device=points.device)
    members[labels, torch.arange(len(points), device=points.device)] = 1
    return members @ points / members.sum(1, keepdim=True)


def _covering_order(distances: torch.Tensor) -> torch.Tensor:
    """Order the columns of distances (n, k): next is always the one that leaves the smallest sum of distances to the nearest."""
    nearest, order = distances.new_full((len(distances), 1), torch.inf), []
    left = torch.ones(distances.shape[1], dtype=torch.bool, device=distances.device)
    for _ in range(distances.shape[1]):
        sums = torch.minimum(nearest, distances).sum(0).masked_fill(~left, torch.inf)
        order.append(int(sums.argmin()))
        left[order[-1]] = False
        nearest = torch.minimum(nearest, distances[:, order[-1:]])
    return torch.tensor(order, device=distances.device)
