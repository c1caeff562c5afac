"""`squeeze`: the training set -> a teacher, a classifier with batch normalisation, and its honest held-out accuracy.

One unit. It checkpoints after every epoch into its scratch folder, so a killed run goes on at the epoch it had reached
and ends with the same bytes. `weights` names a local file to start from, or, with `epochs: 0`, to take as it is.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.artifacts.datasets import METRICS_FILE, commonest_share, dataset_digest, open_part
from pipelines.artifacts.teacher import TEACHER_FILE, TEACHER_WEIGHTS, build_network
from pipelines.artifacts.trainable import common_side, require_trainable, smallest_batch
from pipelines.errors import UserError
from pipelines.evaluation.verdicts import beats_chance
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.squeeze.params import SqueezeParams
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
    workers = "actors"
    computes = True

    def reads(self, params: SqueezeParams) -> dict[str, str]:
        return {} if params.weights is None else {"squeeze.weights": params.weights}

    def plan(self, job: Job[SqueezeParams]) -> Plan:
        train = open_part(job, "split", "train")
        payload: dict[str, Any] = {"train": dataset_digest(train)}
        for part in ("val", "test"):
            payload[part] = dataset_digest(open_part(job, "split", part))
        if job.params.weights is not None:
            payload["weights"] = hashlib.sha256(_weights_file(job.params.weights).read_bytes()).hexdigest()
        return Plan([Unit("teacher", payload)], facts={"classes": train.classes})

    def check(self, job: Job[SqueezeParams]) -> None:
        torch_device(job)
        training = job.params.training
        train, *held_out = (open_part(job, "split", part) for part in ("train", "val", "test"))
        side = common_side([train, *held_out])
        batch = smallest_batch([(len(train), training.batch_size)] if training.epochs else [])
        model = require_trainable(job.params.network, len(train.classes), side, "squeeze.network", batch)
        if job.params.weights is not None:
            load_weights(model, job.params)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[SqueezeParams]) -> None:
        import safetensors.torch

        from distill.evaluation import confusion, evaluate
        from distill.soundness import class_order_fault
        from distill.training import Trainer

        device, params = torch_device(job), job.params
        parts = {part: load_arrays(open_part(job, "split", part)) for part in ("val", "test")}
        # A network taken as it is needs no training set in memory.
        parts["train"] = load_arrays(open_part(job, "split", "train")) if params.training.epochs else parts["val"]
        classes, size = open_part(job, "split", "train").classes, parts["train"].images.shape[-1]
        model = build_network(params.network, len(classes), size, job.seed("teacher", "init"), "squeeze.network")
        if params.weights is not None:
            load_weights(model, params)
        trainer = Trainer(
            model.to(device),
            parts["train"].tensors(device),
            params.training,
            mean=params.mean,
            std=params.std,
            seed=job.seed("teacher", "training"),
            validation=parts["val"].tensors(device),
        )
        history = train_resumably(trainer, output)
        final = trainer.final
        test_top1, val_top1 = (
            evaluate(final, *parts[part].tensors(device), mean=params.mean, std=params.std)[0]
            for part in ("test", "val")
        )
        if params.weights is not None and not params.training.epochs:
            found = confusion(final.eval(), *parts["val"].tensors(device), mean=params.mean, std=params.std)
            if (fault := class_order_fault(found)) is not None:
                raise UserError(
                    f"squeeze.weights: {params.weights} does not fit the data: on validation images {fault}; give weights of these "
                    f"classes in this order ({', '.join(classes[:5])}, ...), or train: squeeze.training.epochs above 0"
                )
        output.write(TEACHER_WEIGHTS, safetensors.torch.save(_plain_state(final)))
        facts = {
            "network": params.network,
            "image_size": size,
            "classes": classes,
            "mean": params.mean,
            "std": params.std,
        }
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
        found, test = dict(markers[0].summary), open_part(job, "split", "test")
        chance = commonest_share(test)
        if chance < 1 and not beats_chance(found["test_top1"], chance, len(test)):
            warnings.warn(
                f"the teacher reaches {100 * found['test_top1']:.1f} % on test images, no better than naming the commonest class every "
                f"time ({100 * chance:.1f} %): change squeeze.training before anything is distilled from it",
                stacklevel=2,
            )
        return found


def _weights_file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"squeeze.weights: no file {path}; give a local .safetensors, .pt or .th state dict")
    return path


def read_weights(name: str) -> dict[str, Any]:
    """A state dict from a local file, or `UserError`; `module.` prefixes of DataParallel are removed. Never unpickles code."""
    import safetensors.torch
    import torch

    path = _weights_file(name)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of anything makes a reader say
        problem = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise UserError(f"squeeze.weights: {path} is no file of weights: {problem}; give a state dict") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(
            f"squeeze.weights: {path} holds no state dict (names and tensors); save one with model.state_dict()"
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_weights(model: Any, params: SqueezeParams) -> None:
    """Put the given weights into the network, or say in one sentence why they do not fit."""
    from distill.soundness import fault_of

    assert params.weights is not None
    try:
        model.load_state_dict(read_weights(params.weights))
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise UserError(f"squeeze.weights: {params.weights} does not fit {params.network}: {problem}") from None
    if (fault := fault_of(model)) is not None:
        raise UserError(f"squeeze.weights: {params.weights} is no sound network: {fault}; give other weights")


def _plain_state(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
