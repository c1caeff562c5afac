"""Trains and tests one classifier of DataDream's table: CLIP with LoRA, or a network from scratch. The only file of it with torch.

Every image is brought to its classifier's size by one rule, `center_resize`: the short side, bicubic with antialiasing, then the middle;
where images have several sizes, CLIP's when they are read, rounded to uint8. A network from scratch takes images of one size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.generators import generator_model
from pipelines.artifacts.teacher import build_network
from pipelines.evaluation.datadream.classifier import Classifier, Classify, Training
from pipelines.evaluation.datadream.params import DataDreamParams
from pipelines.evaluation.images import ArmImages, Selection
from pipelines.evaluation.students import (
    CHUNK,
    StudentParams,
    at_size,
    over_steps,
    oversample_real,
    resize_uint8,
    square_side,
)
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.checkpoints import Checkpoint, train_resumably
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.seeds import seed_for
from synth.datadream.config import FitConfig

if TYPE_CHECKING:
    import torch


def require_clip(job: Job[Any]) -> None:
    """Raise `UserError` when CLIP cannot be loaded for want of a package or of a model."""
    require_synth("evaluate.datadream")
    generator_model(job, "clip")


def require_texts(job: Job[Any], classes: Sequence[str], prompts: Sequence[str]) -> None:
    """Raise `UserError` when two classes have the same text to CLIP."""
    from pipelines.artifacts.reading_texts import clip_reader
    from synth.datadream.texts import require_distinct

    require_distinct(classes, prompts, [clip_reader(job)], "evaluate.datadream.names")


def require_size(policy: Any, size: tuple[int, int]) -> None:
    """Raise `UserError` when a policy does not leave an image at `size`; one that does so by chance is found when it happens."""
    import torch

    from synth.datadream.views import policy_views

    with method_errors("evaluate.datadream.views"):
        policy_views(policy, size, 0)(torch.zeros(1, 3, *size), ["blank"], 0)


@dataclass(frozen=True, eq=False)
class Resized:
    """Images of any size as examples of a classifier's size, resized when they are asked for."""

    arrays: ImageArrays
    size: tuple[int, int]

    @property
    def keys(self) -> Sequence[str]:
        return self.arrays.keys

    @cached_property
    def labels(self) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.arrays.labels)

    def images(self, rows: Sequence[int]) -> torch.Tensor:
        """(n, 3, h, w) float in [0, 1]."""
        import torch

        from synth.datadream.accuracy import center_resize

        return center_resize(torch.from_numpy(self.arrays.images[list(rows)]).float() / 255, self.size)


class ClassifierEvaluation:
    """What a worker keeps: the held-out sets, CLIP, and the images of the arms."""

    def __init__(self, job: Job[DataDreamParams]) -> None:
        self._job = job
        self.device = torch_device(job)
        self.images = ArmImages(job)
        self._held_out: dict[tuple[str, str], ImageArrays] = {}

    @cached_property
    def clip(self) -> tuple[Any, Any]:
        """The model in float32 on the CPU, and its tokenizer."""
        from pipelines.artifacts.scoring import load_clip

        return load_clip(self._job)

    def run(self, unit: Unit, output: UnitOutput) -> None:
        """Train one classifier and test it once."""
        payload = Classify.from_json(unit.payload)
        shots, seed, variant = payload.shots, payload.seed, payload.arm.variant
        real: Selection | None = None
        if payload.real is not None:
            real = self.images.reals(shots, seed) if shots else self.images.everything()
        synthetic = self.images.synthetic(variant, shots, seed, payload.at_most) if variant else None
        kind = payload.classifier
        fit = self._to_clip if kind == "clip" else None
        sets = (
            None if real is None else load_arrays(self.images.train.dataset, real.keys, fit=fit),
            None if synthetic is None else load_arrays(self.images.kept(variant).dataset, synthetic.keys, fit=fit),
        )
        training = (self._clip if kind == "clip" else self._student)(payload, *sets, output)
        classifier = Classifier(
            payload.arm,
            kind,
            shots,
            seed,
            payload.few_shot_seed,
            training,
            real=0 if real is None else len(real.keys),
            synthetic=0 if synthetic is None else len(synthetic.keys),
            real_bytes=0 if real is None else real.size,
            synthetic_bytes=0 if synthetic is None else synthetic.size,
            fewest_synthetic=0 if synthetic is None else synthetic.fewest(len(self.images.classes)),
        )
        output.summary = asdict(classifier)

    def _to_clip(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An image (3, h, w) uint8 at CLIP's size."""
        side = self.clip[0].config.vision_config.image_size
        return resize_uint8(image[None], (side, side))[0]

    def _part(self, part: str, kind: str) -> ImageArrays:
        """A held-out set as a kind of classifier reads it; kept, and shared where all images have one size."""
        dataset = open_part(self._job, "split", part)
        one_size = (
            len(set(zip(*(dataset.rows([side])[side].to_pylist() for side in ("height", "width")), strict=True))) == 1
        )
        name = (part, "" if one_size else kind)
        if name not in self._held_out:
            self._held_out[name] = load_arrays(dataset, fit=self._to_clip if kind == "clip" else None)
        return self._held_out[name]

    def _seed(self, seed: int, purpose: str) -> int:
        """The same for every arm of a seed."""
        return seed_for(self._job.run.seed, "evaluate", f"datadream seed {seed}", purpose)

    def _clip(
        self, payload: Classify, real: ImageArrays | None, synthetic: ImageArrays | None, output: UnitOutput
    ) -> Training:
        from synth.datadream.accuracy import classifier_accuracy
        from synth.datadream.classifier import ClipClassifier
        from synth.datadream.fit import fit, pool_of
        from synth.datadream.views import policy_views, views_seed

        model, tokenizer = self.clip
        texts = [[prompt] for prompt in payload.recipe["prompts"]]
        classifier = ClipClassifier(copy.deepcopy(model), tokenizer, texts, seed=self._seed(payload.seed, "init"))
        classifier.to(self.device)
        reals, generated = (None if part is None else Resized(part, classifier.size) for part in (real, synthetic))
        val, test = (Resized(self._part(part, "clip"), classifier.size) for part in ("val", "test"))
        steps = epochs = best_epoch = 0
        if real or synthetic:
            config = FitConfig(**payload.recipe["config"])
            counts = [0 if part is None else len(part) for part in (real, synthetic)]
            batches = pool_of(counts[0], counts[1], config, classifier.classes).batches
            config = over_steps(config, payload.steps, batches)
            state, run_seed, policy = Checkpoint(output), self._seed(payload.seed, "fit"), payload.recipe["views"]
            fitted = fit(
                classifier,
                reals,
                generated,
                val,
                config,
                run_seed=run_seed,
                views=None if policy is None else policy_views(policy, classifier.size, views_seed(run_seed)),
                report=lambda line: output.tick(line["epoch"], config.epochs, f"val {line['val_accuracy']:.1%}"),
                resume=state.read(),
                checkpoint=state.save,
            )
            steps, epochs, best_epoch = config.epochs * batches, config.epochs, fitted.best_epoch
            accuracy = fitted.best_accuracy
        else:
            accuracy = classifier_accuracy(classifier, val).accuracy
        tested = classifier_accuracy(classifier, test)
        per_class = tuple(None if math.isnan(value) else value for value in tested.per_class)
        return Training(steps, epochs, best_epoch, accuracy, tested.accuracy, per_class)

    def _student(
        self, payload: Classify, real: ImageArrays | None, synthetic: ImageArrays | None, output: UnitOutput
    ) -> Training:
        from distill.training import Trainer, batch_bounds, needs_company

        recipe, classes = StudentParams.model_validate(payload.recipe), len(self.images.classes)
        val, test = (self._part(part, "student") for part in ("val", "test"))
        side = square_side(test)
        data = oversample_real(real, None if synthetic is None else at_size(synthetic, side))
        init = self._seed(payload.seed, "init")
        model = build_network(recipe.network, classes, side, init, "evaluate.datadream.student.network")
        batches = len(batch_bounds(len(data), recipe.training.batch_size, needs_company(model)))
        config = over_steps(recipe.training, payload.steps, batches)
        trainer = Trainer(
            model.to(self.device),
            data.tensors(self.device),
            replace(config, evaluate_every=max(config.epochs, 1)),
            mean=recipe.mean,
            std=recipe.std,
            seed=self._seed(payload.seed, "views"),
            validation=val.tensors(self.device),
        )
        rows = train_resumably(trainer, output)
        right, labels = self._correct(trainer.final, recipe, test), test.labels
        per_class = tuple(
            float(right[labels == label].mean()) if (labels == label).any() else None for label in range(classes)
        )
        accuracy = float(rows[-1]["val_top1"])
        return Training(trainer.steps, config.epochs, config.epochs, accuracy, float(right.mean()), per_class)

    def _correct(self, model: Any, recipe: StudentParams, test: ImageArrays) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which test images a network gets right."""
        import torch

        from distill.accuracy import normalise

        model.eval()
        images, labels = test.tensors(self.device)
        right = []
        with torch.no_grad():
            for start in range(0, len(images), CHUNK):
                logits = model(normalise(images[start : start + CHUNK].float() / 255, recipe.mean, recipe.std))
                right.append((logits.argmax(1) == labels[start : start + CHUNK]).cpu())
        return np.asarray(torch.cat(right).numpy())
