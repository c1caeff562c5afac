"""k-means and medoids: what they split, in which order, and what they do where points are few, equal or broken."""

from __future__ import annotations

import pytest
import torch

from distill.clusters import k_means, medoids
from distill.errors import DistillError


def blobs(sizes: list[int], d: int = 8, spread: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (n, d) about centres that are 10 apart, shuffled, and the blob of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.eye(d)[: len(sizes)] + 100
    blob = torch.cat([torch.full((size,), place) for place, size in enumerate(sizes)])
    blob = blob[torch.randperm(len(blob), generator=generator)]
    return centres[blob] + spread * torch.randn(len(blob), d, generator=generator), blob


def test_blobs_are_found_whatever_the_seed() -> None:
    points, blob = blobs([30, 20, 10, 5])
    for seed in range(10):
        centres, labels = k_means(points, 4, seed)
        pairs = set(zip(labels.tolist(), blob.tolist(), strict=True))
        assert len(pairs) == 4
        for label in range(4):
            torch.testing.assert_close(centres[label], points[labels == label].mean(0))


def test_the_same_seed_gives_the_same_clusters_and_the_global_generator_stays() -> None:
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    state = torch.random.get_rng_state()
    first, second = k_means(points, 10, seed=2**62), k_means(points, 10, seed=2**62)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not torch.equal(k_means(points, 10, seed=3)[1], first[1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_clusters_are_tighter_than_those_of_plain_starts() -> None:
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(4)).double()

    def plain(seed: int) -> float:
        centres = points[torch.randperm(300, generator=torch.Generator().manual_seed(seed))[:12]]
        for _ in range(50):
            labels = torch.cdist(points, centres).argmin(1)
            centres = torch.stack([points[labels == label].mean(0) for label in range(12)])
        return float(torch.cdist(points, centres).min(1).values.square().sum())

    ours = []
    for seed in range(5):
        centres, labels = k_means(points, 12, seed)
        ours.append(float((points - centres.double()[labels]).square().sum()))
    starts = sorted(plain(seed) for seed in range(20))
    assert sum(ours) / 5 < 0.98 * sum(starts) / 20


def test_each_head_of_the_medoids_covers_the_points_best() -> None:
    points, blob = blobs([40, 30, 6, 3])
    chosen = medoids(points, 4, seed=0)
    assert blob[chosen].tolist() == [0, 1, 2, 3]
    distances = torch.cdist(points, points[chosen]).square()
    sums = distances.sum(0)
    assert int(sums.argmin()) == 0
    assert int(torch.minimum(distances[:, :1], distances[:, 1:]).sum(0).argmin()) == 0


def test_medoids_are_members_nearest_to_their_centre() -> None:
    points = torch.randn(120, 5, generator=torch.Generator().manual_seed(6))
    (centres, labels), chosen = k_means(points, 9, seed=1), medoids(points, 9, seed=1)
    assert labels[chosen].tolist() == list(range(9))
    for label in range(9):
        own = (points[labels == label] - centres[label]).square().sum(1)
        assert float((points[chosen[label]] - centres[label]).square().sum()) == pytest.approx(float(own.min()))


def test_points_that_coincide_fill_every_cluster() -> None:
    points = torch.tensor([[1.0, 2.0]] * 6 + [[5.0, 5.0]])
    for seed in range(5):
        _, labels = k_means(points, 4, seed)
        assert sorted(labels.unique().tolist()) == [0, 1, 2, 3]
        assert len(set(medoids(points, 4, seed).tolist())) == 4
    assert sorted(medoids(points, 7, 0).tolist()) == list(range(7))


def test_one_cluster_is_the_mean_and_as_many_clusters_as_points_are_the_points() -> None:
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(k_means(points, 1, 0)[0][0], points.mean(0))
    centres, labels = k_means(points, 9, 0)
    torch.testing.assert_close(centres[labels], points)


def test_a_common_offset_moves_no_label() -> None:
    points = torch.randn(100, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert torch.equal(k_means(points, 5, 0)[1], k_means(points + 1e6, 5, 0)[1])


@pytest.mark.parametrize(
    ("points", "k", "words"),
    [
        (torch.zeros(3, 2), 4, "4 clusters need .* got 3 points"),
        (torch.zeros(3, 2), 0, "0 clusters need"),
        (
            torch.tensor([[0.0], [float("nan")], [float("inf")]]),
            1,
            "2 of 3 points are not finite, the first is point 1",
        ),
        (torch.zeros(3), 1, r"points \(n, d\), got shape \(3,\)"),
        (torch.zeros(3, 0), 1, r"points \(n, d\), got shape \(3, 0\)"),
    ],
)
def test_what_cannot_be_split_is_refused(points: torch.Tensor, k: int, words: str) -> None:
    with pytest.raises(DistillError, match=words):
        k_means(points, k, 0)
    with pytest.raises(DistillError, match=words):
        medoids(points, k, 0)
