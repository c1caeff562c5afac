"""Trains the students of `evaluate@discl`, chooses among candidates by validation images, and tests once.

Torch is imported here, in functions, and in `adaptive`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distill.config import TrainConfig
from distill.sampling import Places, class_balanced
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.profiles import profile_arrays
from pipelines.artifacts.teacher import build_network
from pipelines.evaluation.discl.arms import ARMS
from pipelines.evaluation.discl.images import TailImages
from pipelines.evaluation.discl.params import DisclParams
from pipelines.evaluation.discl.pool import Pool, course_of, lists
from pipelines.evaluation.discl.student import Candidate, Recipe, Student, TrainStudent
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.seeds import seed_for

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill.training import BatchOperation

NETWORK_KEY = "evaluate.discl.network"


class _Shown(NamedTuple):
    """What a training is given: images and labels, the pool that its places are of, and the places of every epoch."""

    data: tuple[torch.Tensor, torch.Tensor]
    pool: Pool
    epochs: list[Places]


class _Trained(NamedTuple):
    """A network after its last epoch, the steps that it took, and what it was shown."""

    model: nn.Module
    steps: int
    shown: _Shown


class DisclStudents:
    """What a worker keeps: the images of the arms, and the held-out sets."""

    def __init__(self, job: Job[DisclParams]) -> None:
        self._job, self.images = job, TailImages(job)
        self.device = torch_device(job)
        self._parts: dict[str, ImageArrays] = {}

    def run(self, unit: Unit, output: UnitOutput) -> None:
        """Train one student, with each of its candidates, and test the best once."""
        payload = TrainStudent.from_json(unit.payload)
        trained: dict[Candidate, _Trained] = {}
        models: list[nn.Module] = []
        validation: list[float] = []
        for candidate in payload.candidates:
            training = replace(candidate, tau=None)  # what is adjusted afterwards is adjusted of one training
            if training not in trained:
                trained[training] = self._train(payload, training, output, f"training{len(trained)}")
            models.append(self._adjusted(trained[training], candidate))
            right, of = self._right(models[-1], "val")
            validation.append(float((right[of > 0] / of[of > 0]).mean()))
        best = int(np.argmax(validation))  # the first of equals, in the order of the parameters
        chosen = payload.candidates[best]
        right, of = self._right(models[best], "test")
        steps, shown = trained[replace(chosen, tau=None)][1:]
        levels = _shown_levels(shown)
        result = Student(
            payload.arm,
            payload.seed,
            chosen,
            payload.candidates,
            tuple(validation),
            tuple(right.tolist()),
            tuple(of.tolist()),
            steps,
            sum(map(len, shown.epochs)) - sum(levels.values()),
            {str(level): levels[level] for level in sorted(levels)},
            len(shown.pool.levels),
        )
        output.summary = asdict(result)

    def _train(self, payload: TrainStudent, candidate: Candidate, output: UnitOutput, name: str) -> _Trained:
        """Train a network to its last epoch; of cRT features first, then the classifier alone."""
        shown, recipe = self._shown(payload, candidate), payload.recipe
        model = self._network(recipe, payload.seed, "init")
        other: torch.Tensor | None = None
        if payload.arm == "separate_norm":
            import torch

            from distill.norms import split_norms

            split_norms(model)
            other = torch.arange(len(shown.data[1])) >= len(shown.pool.labels)
        config = replace(recipe.training, loss=ARMS[payload.arm].loss, rate_per="step")
        counts = shown.pool.shown(shown.epochs) if candidate.prior == "shown" else shown.pool.counts
        how: dict[str, Any] = {"counts": counts.tolist(), "other_kind": other}
        if payload.arm == "strong_augmentation":
            how["batch_operation"] = _augmented(recipe.strong, self._seed(payload.seed, "strong"))
        if candidate.strategy == "adaptive":
            return self._adapt(payload, shown, model, config, how, output, name)
        if payload.arm != "crt":
            model, steps = self._fit(model, shown.data, shown.epochs, config, recipe, payload.seed, how, output, name)
            return _Trained(model, steps, shown)
        from distill.retraining import freeze_features

        first = len(shown.epochs) - recipe.retrained
        model, steps = self._fit(
            model, shown.data, shown.epochs[:first], config, recipe, payload.seed, how, output, f"{name}-features"
        )
        freeze_features(model, self._network(recipe, payload.seed, "classifier"))
        model, more = self._fit(
            model, shown.data, shown.epochs[first:], config, recipe, payload.seed, how, output, f"{name}-classifier"
        )
        return _Trained(model, steps + more, shown)

    def _adapt(
        self,
        payload: TrainStudent,
        shown: _Shown,
        model: nn.Module,
        config: TrainConfig,
        how: dict[str, Any],
        output: UnitOutput,
        name: str,
    ) -> _Trained:
        """Train a network that chooses its levels."""
        from pipelines.evaluation.discl.adaptive import AdaptiveLists, AdaptiveTrainer

        recipe, order = payload.recipe, self._seed(payload.seed, "order")
        course = course_of(config.epochs, recipe.curriculum, recipe.downsample, None)
        chosen = AdaptiveLists(shown.pool, course, recipe.held_out or 1, order)
        trainer = AdaptiveTrainer(
            chosen,
            model.to(self.device),
            shown.data,
            config,
            mean=recipe.mean,
            std=recipe.std,
            seed=self._seed(payload.seed, "views"),
            **how,
        )
        train_resumably(trainer, output, name)
        return _Trained(trainer.final, trainer.steps, shown._replace(epochs=chosen.epochs))

    def _fit(
        self,
        model: nn.Module,
        data: tuple[torch.Tensor, torch.Tensor],
        epochs: Sequence[Places],
        config: TrainConfig,
        recipe: Recipe,
        seed: int,
        how: dict[str, Any],
        output: UnitOutput,
        name: str,
    ) -> tuple[nn.Module, int]:
        from distill.training import Trainer

        trainer = Trainer(
            model.to(self.device),
            data,
            replace(config, epochs=len(epochs), warmup_epochs=min(config.warmup_epochs, len(epochs) - 1)),
            mean=recipe.mean,
            std=recipe.std,
            seed=self._seed(seed, "views"),
            positions=epochs.__getitem__,
            **how,
        )
        train_resumably(trainer, output, name)
        return trainer.final, trainer.steps

    def _network(self, recipe: Recipe, seed: int, purpose: str) -> nn.Module:
        classes, side = len(self.images.classes), self._real.images.shape[-1]
        return build_network(recipe.network, classes, side, self._seed(seed, purpose), NETWORK_KEY)

    def _seed(self, seed: int, purpose: str) -> int:
        """The same for every arm of a seed."""
        return seed_for(self._job.run.seed, "evaluate", f"discl seed {seed}", purpose)

    def _shown(self, payload: TrainStudent, candidate: Candidate) -> _Shown:
        arm, recipe, least = payload.arm, payload.recipe, candidate.min_text_cosine
        pool, order = self.images.pool(arm, least), self._seed(payload.seed, "order")
        parts = [self._everything if arm == "full_real" else self._real]
        if ARMS[arm].images:
            synthetic = self.images.synthetic(arm, least)
            parts.append(synthetic.spectra.load(synthetic.images, self._real.images.shape[2:]))
        course, strategy = (
            course_of(recipe.training.epochs, recipe.curriculum, recipe.downsample, recipe.repeat),
            candidate.strategy or "diverse_to_specific",
        )
        epochs = lists(pool, course, ARMS[arm].shows, strategy, order, full=len(parts[0]))
        if arm == "crt":
            for place in range(len(epochs) - recipe.retrained, len(epochs)):
                epochs[place] = class_balanced(pool.labels, len(epochs[place]), order, place)
        images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
        return _Shown(ImageArrays(images, labels, []).tensors(self.device), pool, epochs)

    def _adjusted(self, trained: _Trained, candidate: Candidate) -> nn.Module:
        from distill.losses import AdjustedLogits

        if candidate.tau is None:
            return trained.model
        return AdjustedLogits(trained.model, trained.shown.pool.counts.tolist(), candidate.tau).to(self.device)

    def _right(self, model: nn.Module, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Right answers and images of each class (classes,) in a held-out part."""
        from distill.accuracy import confusion

        if part not in self._parts:
            self._parts[part] = load_arrays(open_part(self._job, "split", part))
        params = self._job.params
        counts = confusion(model.eval(), *self._parts[part].tensors(self.device), mean=params.mean, std=params.std)
        return counts.diagonal().numpy(), counts.sum(1).numpy()

    @cached_property
    def _real(self) -> ImageArrays:
        return profile_arrays(self._job, self.images.profile)

    @cached_property
    def _everything(self) -> ImageArrays:
        return load_arrays(self.images.train)


def _shown_levels(shown: _Shown) -> Counter[int]:
    """How many synthetic images of each level a training shows, repeated ones as often as they are repeated."""
    if not len(shown.pool.levels):
        return Counter()
    places = np.concatenate(shown.epochs) - len(shown.pool.labels)
    return Counter(shown.pool.levels[places[places >= 0]].tolist())


def _augmented(policy: Any, seed: int) -> BatchOperation:
    """A policy of `augment`, drawn for each place of an epoch: an image that is shown twice is two samples."""
    from augment.augmenter import Augmenter

    augmenter = Augmenter(policy, seed=seed & 0x7FFFFFFF, output="float")

    def operate(images: torch.Tensor, epoch: int, where: slice) -> torch.Tensor:
        augmenter.epoch = epoch
        return augmenter(images, list(range(where.start, where.stop))).images

    return operate
