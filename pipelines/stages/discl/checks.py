"""What is asked of the models before any work: that levels begin apart, and that they can tell the classes' texts from one another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pipelines.artifacts.few_shot import load_few_shot
from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.artifacts.profiles import Profile
from pipelines.runtime.job import Job
from pipelines.runtime.method_errors import method_errors
from pipelines.stages.discl.params import DisclParams
from synth.discl.prompts import PromptBook


def require_starts(job: Job[DisclParams]) -> None:
    """`UserError` where two levels begin at the same step of the model's schedule, or the solver does not suit the model.

    Loads no weights. Where the schedule follows from the size of what is made, which the model's transformer tells, the worker asks.
    """
    from pipelines.artifacts.reading_texts import model_loading
    from synth import schedules
    from synth.discl.starts import level_starts

    generator, where, settings = generator_of(job, "text"), generator_model(job, "text"), job.params.generate
    with model_loading("text-to-image model", where):
        own = schedules.load(where, generator.revision)
    if generator.family == "flux" or own.config.get("use_dynamic_shifting"):
        return
    with method_errors("discl.generate"):
        scheduler = schedules.make(settings.scheduler, own)
        schedules.prepare(scheduler, settings.steps)
    with method_errors("discl.levels and discl.generate.steps"):
        level_starts(job.params.made_levels, scheduler, own, settings.steps, job.params.starts)


def require_texts(job: Job[DisclParams], classes: Sequence[str], hard: Sequence[str], book: PromptBook) -> None:
    """`UserError` when two classes have the same text to the CLIP that scores images, or the same prompts to the generator."""
    from pipelines.artifacts.reading_texts import clip_reader, text_readers
    from synth.datadream.texts import require_distinct

    name_of = job.params.name_of
    texts = [book.class_text(name_of(name)) for name in classes]
    with method_errors("discl.names"):
        require_distinct(classes, texts, [clip_reader(job)], "discl.names")
        if book.descriptions is None:  # a context comes after the class's text
            require_distinct(classes, texts, text_readers(job), "discl.names")
            return
    with method_errors("discl.prompts.bank"):
        prompts = [book.candidates(name_of(name)) for name in hard]
        require_distinct(hard, prompts, text_readers(job), "discl.prompts.bank")


def warn_of_outside_images(job: Job[DisclParams], profile: Profile, hard: Sequence[int]) -> None:
    """Warn where the adapters have seen images that are none of the profile's: what they make is not of the training set alone."""
    adapter = job.params.adapter
    if adapter is None:
        return
    few_shot, own = load_few_shot(job, adapter.shots, adapter.seed), set(profile.keys)
    labels = hard if adapter.variant == "cls" else sorted(few_shot)
    shown = [key for label in labels for key in few_shot[label]]
    if outside := sum(key not in own for key in shown):
        warnings.warn(
            f"discl.adapter: {outside} of the {len(shown)} images that the adapters were trained on are none of the profile "
            f"{profile.name!r}, so what is made with them is from outside that training set",
            stacklevel=2,
        )
