"""The curricula of a job as tables: its schedule, its mix and which images are hard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from augment.errors import MethodError
from pipelines.artifacts.profiles import Profile
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.seeds import hash_ranks
from pipelines.stages.discl.hard import tail_share
from pipelines.stages.discl.params import DisclParams
from synth.discl.mix import mix_of
from synth.discl.schedules import REAL, Strategy, schedule
from synth.discl.table import Curriculum, curriculum


def require_curricula(job: Job[DisclParams], profile: Profile, hard: int) -> None:
    """`UserError` where the asked-for curricula cannot be made of so many hard images."""
    params = job.params.curricula
    if params.held_out >= hard:
        raise UserError(
            f"discl.curricula.held_out: {params.held_out} of {hard} hard images, which leaves none to train on; lower it"
        )
    if hard >= len(profile.keys):
        raise UserError(f"every image of the profile {profile.name!r} is hard; name fewer in discl.hard")
    try:
        for strategy in params.strategies:
            schedule(strategy, _levels(job), params.epochs, params.curriculum_epochs, job.params.mode)
    except MethodError as error:
        raise UserError(f"discl.curricula: {error}") from None


def _levels(job: Job[DisclParams]) -> tuple[int, ...]:
    """The levels that a curriculum goes through: those that are made, and at last the real image."""
    return (*job.params.made_levels, REAL)


def curricula(
    job: Job[DisclParams], profile: Profile, hard: Sequence[str], admitted: Sequence[tuple[int, str]]
) -> dict[Strategy, Curriculum]:
    """The tables by strategy; `admitted` are level and real image of every image that may be trained on."""
    params = job.params.curricula
    rank = hash_ranks(hard, str(job.seed("", "held_out")))
    held_out = [hard[place] for place in np.argsort(rank, kind="stable")[: params.held_out]]
    named = set(hard)
    others = [key for key in profile.keys if key not in named]
    available = Counter(level for level, parent in admitted if parent not in set(held_out))
    share = tail_share(profile, job.params.hard, hard)
    numbers = mix_of(len(others), len(hard) - len(held_out), share, params.downsample, job.params.mode)
    seed = job.seed("", "curriculum")
    tables = {}
    for strategy in params.strategies:
        plan = schedule(strategy, _levels(job), params.epochs, params.curriculum_epochs, job.params.mode, seed)
        tables[strategy] = curriculum(
            strategy,
            plan,
            numbers,
            hard,
            available=available,
            seed=seed,
            others=others,
            held_out=held_out,
            mode=job.params.mode,
        )
    return tables
