"""`quality_scores`: the scores of a generated set against a real one in one call, of the whole and of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from augment.seeds import operation_seed
from synth.errors import SynthError
from synth.quality.distances import cmmd, fid, kid
from synth.quality.neighbours import manifold, nearest, vendi

Labels = Sequence[int] | torch.Tensor
ClipPair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """Scores of one set against another; None where there were too few images, or no CLIP features for `cmmd`.

    `generated` and `real` are numbers of images. Read each with its limits:

    * `fid`: lower is nearer. Biased upwards at small n, so None below `fid_least` images; compare at equal n and features only.
    * `kid`, `kid_std`: lower is nearer. Unbiased at any n, so it may be below 0; the one to read when images are few.
    * `cmmd`: lower is nearer. Unbiased; numbers of different CLIP towers do not compare.
    * `precision`, `density`: do generated images lie where real ones do. `recall`, `coverage`: is every real image's surroundings
      reached. All four depend on n and k.
    * `vendi`, `vendi_real`: effective number of different images, never above n: compare at equal n.
    * `nearest_mean`, `nearest_max`: cosine of generated images to their nearest real one. If `real` is what the generator was
    trained on, a maximum near 1 is a copy; a mean of 1 is memory, not quality.
    """

    generated: int
    real: int
    fid: float | None = None
    kid: float | None = None
    kid_std: float | None = None
    cmmd: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    vendi: float | None = None
    vendi_real: float | None = None
    nearest_mean: float | None = None
    nearest_max: float | None = None


@dataclass(frozen=True)
class QualityScores:
    """Scores `overall`, and `per_class` by label in rising order, of every label in either set (empty without labels)."""

    overall: SetScores
    per_class: dict[int, SetScores]


def quality_scores(
    generated: torch.Tensor,
    real: torch.Tensor,
    labels_generated: Labels | None = None,
    labels_real: Labels | None = None,
    *,
    clip: ClipPair | None = None,
    k: int = 5,
    fid_least: int | None = None,
    kid_subsets: int = 100,
    kid_size: int = 1000,
    seed: int = 0,
) -> QualityScores:
    """Score `generated` (n, d) against `real` (m, d), features of one network, with a label (int) for each row.

    `clip` are both sets' CLIP features (n, c) and (m, c), for `cmmd`. `fid_least` None asks d + 1 images of each set, from where
    covariances can have full rank. Subsets of KID follow from `seed` and the class, so no class's scores depend on the others.
    Raises SynthError where shapes do not fit or features are not finite.
    """
    if (labels_generated is None) != (labels_real is None):
        raise SynthError("scores of each class need labels of both sets, got those of one")
    if clip is not None and (len(clip[0]), len(clip[1])) != (len(generated), len(real)):
        raise SynthError(
            f"CLIP features are of {len(clip[0])} and {len(clip[1])} images, the others of {len(generated)} and {len(real)}"
        )

    def of(first: torch.Tensor, second: torch.Tensor, pair: ClipPair | None, name: str) -> SetScores:
        generator = torch.Generator().manual_seed(operation_seed(seed, name, "kid"))
        n, m = len(first), len(second)
        least = first.shape[1] + 1 if fid_least is None else max(2, fid_least)
        scores: dict[str, float | None] = {}
        if min(n, m) >= least:
            scores["fid"] = fid(first, second)
        if min(n, m) >= 2:
            distance = kid(first, second, generator, kid_subsets, kid_size)
            scores |= {"kid": distance.mean, "kid_std": distance.std, "cmmd": None if pair is None else cmmd(*pair)}
        if min(n, m) > k:
            scores |= vars(manifold(first, second, k))
        if n and m:
            cosines, _ = nearest(first, second)
            scores |= {"nearest_mean": float(cosines.mean()), "nearest_max": float(cosines.max())}
        scores |= {"vendi": vendi(first) if n else None, "vendi_real": vendi(second) if m else None}
        return SetScores(generated=n, real=m, **scores)

    overall = of(generated, real, clip, "overall")
    if labels_generated is None or labels_real is None:
        return QualityScores(overall, {})
    own, other = _labels(labels_generated, generated), _labels(labels_real, real)
    per_class = {}
    for label in sorted({*own.tolist(), *other.tolist()}):
        here, there = own == label, other == label
        pair = None if clip is None else (clip[0][here.to(clip[0].device)], clip[1][there.to(clip[1].device)])
        per_class[label] = of(generated[here], real[there], pair, f"class {label}")
    return QualityScores(overall, per_class)


def _labels(labels: Labels, features: torch.Tensor) -> torch.Tensor:
    numbers = torch.as_tensor(labels, dtype=torch.int64, device=features.device)
    if numbers.shape != (len(features),):
        raise SynthError(f"labels take one number for each of {len(features)} images, got shape {tuple(numbers.shape)}")
    return numbers
