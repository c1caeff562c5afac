"""`squeeze`: the training set -> a teacher, a classifier with batch normalisation, and its honest held-out accuracy.

One unit. It checkpoints after every epoch into its scratch folder, so a killed run goes on at the epoch it had reached
and ends with the same bytes. `weights` names local ones to start from, or, with `epochs: 0`, to take as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from augment.values import require_spread
from pipelines.artifacts.datasets import METRICS_FILE, commonest_share, dataset_digest, open_part
from pipelines.artifacts.teacher import TEACHER_FILE, TEACHER_WEIGHTS, build_network
from pipelines.artifacts.trainable import common_side, require_trainable, smallest_batch
from pipelines.errors import UserError
from pipelines.evaluation.verdicts import beats_chance
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Plot, Stage
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.squeeze.params import SqueezeParams
from pipelines.stages.squeeze.weights import load_weights, weights_digest
from pipelines.storage import csv_bytes, pretty_json

HISTORY = "history.csv"
HISTORY_COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "val_top1")


class Squeeze(Stage[SqueezeParams]):
    """Trains the teacher."""

    name = "squeeze"
    version = 2
    summary = "train -> a teacher with batch normalisation and its held-out accuracy"
    adds = "the teacher and its curves"
    extras = ("distill",)
    Params = SqueezeParams
    upstream = ("split",)
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders")
    reduces = ("pipelines.evaluation.verdicts",)
    workers = "actors"
    computes = True
    metrics = (METRICS_FILE,)
    plots = (Plot(HISTORY, "epoch", "val_top1", "Accuracy of the teacher"),)

    def reads(self, params: SqueezeParams) -> dict[str, str]:
        return {} if params.weights is None else {"squeeze.weights": params.weights}

    def plan(self, job: Job[SqueezeParams]) -> Plan:
        train = open_part(job, "split", "train")
        payload: dict[str, Any] = {"train": dataset_digest(train)}
        for part in ("val", "test"):
            payload[part] = dataset_digest(open_part(job, "split", part))
        if job.params.weights is not None:
            payload["weights"] = weights_digest(job.params.weights)
        return Plan([Unit("teacher", payload)], facts={"classes": train.classes})

    def check(self, job: Job[SqueezeParams]) -> None:
        torch_device(job)
        training = job.params.training
        train, *held_out = (open_part(job, "split", part) for part in ("train", "val", "test"))
        side = common_side([train, *held_out])
        batch = smallest_batch([(len(train), training.batch_size)] if training.epochs else [])
        model = require_trainable(job.params.network, len(train.classes), side, "squeeze.network", batch)
        if job.params.weights is not None:
            said = load_weights(model, job.params.weights, job.params.network, side, bool(training.epochs))
            if said is not None:
                warnings.warn(f"squeeze.weights: {said}, and trained with the rest", stacklevel=2)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[SqueezeParams]) -> None:
        import safetensors.torch

        from distill.accuracy import accuracy_and_loss, confusion
        from distill.soundness import class_order_fault
        from distill.training import Trainer

        device, params = torch_device(job), job.params
        parts = {part: load_arrays(open_part(job, "split", part)) for part in ("val", "test")}
        # A network taken as it is needs no training set in memory.
        parts["train"] = load_arrays(open_part(job, "split", "train")) if params.training.epochs else parts["val"]
        classes, size = open_part(job, "split", "train").classes, parts["train"].images.shape[-1]
        model = build_network(params.network, len(classes), size, job.seed("teacher", "init"), "squeeze.network")
        new_head = None
        if params.weights is not None:
            new_head = load_weights(model, params.weights, params.network, size, bool(params.training.epochs))
        mean, std = _mean_and_std(params, parts["train"])
        trainer = Trainer(
            model.to(device),
            parts["train"].tensors(device),
            params.training,
            mean=mean,
            std=std,
            seed=job.seed("teacher", "training"),
            validation=parts["val"].tensors(device),
        )
        history = train_resumably(trainer, output)
        final = trainer.final
        test_top1, val_top1 = (
            accuracy_and_loss(final, *parts[part].tensors(device), mean=mean, std=std)[0] for part in ("test", "val")
        )
        if params.weights is not None and not params.training.epochs:
            counts = confusion(final.eval(), *parts["val"].tensors(device), mean=mean, std=std)
            if (fault := class_order_fault(counts)) is not None:
                raise UserError(
                    f"squeeze.weights: {params.weights} does not fit the data: on validation images {fault}; give weights of these "
                    f"classes in this order ({', '.join(classes[:5])}, ...), or train: squeeze.training.epochs above 0"
                )
        output.write(TEACHER_WEIGHTS, safetensors.torch.save(_plain_state(final)))
        facts: dict[str, Any] = {
            "network": params.network,
            "image_size": size,
            "classes": classes,
            "mean": mean,
            "std": std,
        }
        if new_head is not None:
            facts["new_head"] = True
        output.write(TEACHER_FILE, pretty_json(facts))
        output.write(HISTORY, csv_bytes(history, HISTORY_COLUMNS))
        metrics = {
            "val_top1": val_top1,
            "test_top1": test_top1,
            "parameters": sum(weight.numel() for weight in final.parameters()),
            "epochs": params.training.epochs,
        }
        output.write(METRICS_FILE, pretty_json(metrics))
        output.summary = {"val_top1": val_top1, "test_top1": test_top1}

    def subject(self, unit: Unit, job: Job[SqueezeParams]) -> str:
        return f"squeeze.training of {job.params.network}"

    def finish(self, job: Job[SqueezeParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        metrics, test = dict(markers[0].summary), open_part(job, "split", "test")
        chance = commonest_share(test)
        if chance < 1 and not beats_chance(metrics["test_top1"], chance, len(test)):
            warnings.warn(
                f"the teacher reaches {100 * metrics['test_top1']:.1f} % on test images, no better than naming the commonest class every "
                f"time ({100 * chance:.1f} %): change squeeze.training before anything is distilled from it",
                stacklevel=2,
            )
        return metrics


def _mean_and_std(params: SqueezeParams, train: ImageArrays) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What the network's input is normalised by: as given, or with `auto` as the training images have it."""
    if "auto" not in (params.mean, params.std):
        return params.mean, params.std  # type: ignore[return-value]
    means, spreads = train.channel_statistics()
    mean, std = (own if asked == "auto" else asked for asked, own in ((params.mean, means), (params.std, spreads)))
    try:
        require_spread(mean, std)
    except ValueError as error:
        raise UserError(
            f"squeeze.std: auto gives no usable value on these training images: {error}; give numbers"
        ) from None
    return mean, std


def _plain_state(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
