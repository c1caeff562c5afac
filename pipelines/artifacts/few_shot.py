"""The few-shot manifest that `split` left: one choice of real images for the generator and for the classifier."""

from __future__ import annotations

from typing import Any

from pipelines.artifacts.datasets import finished
from pipelines.errors import UserError
from pipelines.runtime.job import Job

FEW_SHOT = "few_shot.json"


def load_few_shot(job: Job[Any], shots: int, seed: int) -> dict[int, list[str]]:
    """Keys of `shots` images of split/train for each class number; fewer shots are the head of more."""
    manifest = finished(job, "split").json(FEW_SHOT)
    most = max(manifest["shots"], default=0)
    if not 1 <= shots <= most:
        raise UserError(
            f"{job.stage} asks for {shots} shots, the manifest has {most}; raise split.few_shot to [{shots}]"
        )
    if str(seed) not in manifest["seeds"]:
        have = ", ".join(manifest["seeds"])
        raise UserError(f"{job.stage} asks for few-shot seed {seed}, there is {have}; add it to split.few_shot_seeds")
    chosen = {int(label): keys[:shots] for label, keys in manifest["seeds"][str(seed)].items()}
    for label, keys in chosen.items():
        if len(keys) < shots:
            raise UserError(
                f"class {label} has {len(keys)} different pictures to choose {shots} shots from; lower {job.stage}.shots"
            )
    return chosen


def few_shot_seeds(job: Job[Any]) -> list[int]:
    """The seeds that the manifest has."""
    return [int(seed) for seed in finished(job, "split").json(FEW_SHOT)["seeds"]]
