"""The worker of `cudd`: chooses real images, recovers from them, trains students."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from distill.accuracy import predicted_classes
from distill.cda import recover
from distill.curriculum.choice import choose_start
from distill.curriculum.losses import curriculum_loss
from distill.labels import online
from distill.training import Trainer
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.distilled import set_name, shuffled_keys
from pipelines.artifacts.recovered import Block, write_recovered
from pipelines.artifacts.teacher import build_network, load_teacher
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.stages.cudd.params import CuddParams
from pipelines.stages.cudd.payloads import Choose, Recover, TrainStudent, choice_name, images_name, student_name
from pipelines.storage import pretty_json

if TYPE_CHECKING:
    from torch import nn


class Distiller:
    """What a worker keeps: the teacher, and what units of earlier waves left."""

    def __init__(self, job: Job[CuddParams]) -> None:
        self._job, self._committed = job, Committed(job)
        self._device = torch_device(job)
        self._teacher = load_teacher(job, self._device)
        self._train = open_part(job, "split", "train")
        self._defects = job.params.curriculum.defects_of(job.params.recover.mode)
        self._pools: dict[int, list[list[str]]] = {}
        self._students: dict[tuple[int, int], nn.Module] = {}

    def choose(self, payload: Choose, output: UnitOutput) -> None:
        """Write the keys of the real images that some slots of some classes begin at, by class; none of a class twice."""
        teacher, student = self._teacher, self._student(payload.number, payload.curriculum)
        pools = self._shuffled(payload.number)
        used = self._chosen(payload.number, range(payload.curriculum), payload.classes[0])
        about = {"mean": teacher.mean, "std": teacher.std}
        chosen: dict[str, list[str]] = {}
        reasons: Counter[str] = Counter()
        for done, label in enumerate(payload.classes):
            output.tick(done, len(payload.classes), teacher.classes[label])
            keys = [key for key in pools[label] if key not in used.get(str(label), ())]
            images = torch.from_numpy(load_arrays(self._train, keys).images).to(self._device)
            answers = predicted_classes(teacher.model, images, **about)
            others = None if student is None else predicted_classes(student, images, **about)
            places = choose_start(answers, others, label, payload.count, label_0="label_0" in self._defects)
            chosen[str(label)] = [keys[place] for place, _ in places]
            reasons.update(reason for _, reason in places)
        output.write(f"{output.unit.name}.json", pretty_json(chosen))
        counts = {reason: reasons[reason] for reason in ("recognised", "hard", "any")}
        output.summary = {"set": payload.number, "curriculum": payload.curriculum, "images": reasons.total(), **counts}

    def recover(self, payload: Recover, output: UnitOutput) -> None:
        """Recover the images of some slots for a chunk of classes."""
        job, params, teacher = self._job, self._job.params, self._teacher
        chosen = self._chosen(payload.number, range(payload.curriculum + 1), payload.classes[0])
        parents = [[chosen[str(label)][slot] for label in payload.classes] for slot in payload.slots]
        real = load_arrays(self._train, [key for row in parents for key in row])
        init = torch.from_numpy(real.images).to(self._device)
        targets = torch.tensor(payload.classes, device=self._device)
        extra = curriculum_loss(
            self._student(payload.number, payload.curriculum),
            targets,
            len(payload.slots),
            params.curriculum,
            constant="constant" in self._defects,
        )

        def watch(step: int, loss: float | None) -> None:
            output.tick(step, params.recover.iterations, "" if loss is None else f"loss {loss:.3f}")

        span = f"classes {payload.classes[0]}-{payload.classes[-1]}"
        result = recover(
            teacher.model,
            targets,
            params.recover,
            seeds=[job.seed(f"set {payload.number} slot {slot} {span}", "recover") for slot in payload.slots],
            mean=teacher.mean,
            std=teacher.std,
            image_size=teacher.image_size,
            init=init.reshape(len(payload.slots), len(payload.classes), *init.shape[1:]),
            raw_init="raw_start" in self._defects,
            extra=extra,
            on_progress=watch,
        )
        block = Block(payload.number, payload.slots, payload.classes, parents)
        images = result.images.cpu().numpy().transpose(0, 1, 3, 4, 2)
        write_recovered(output, job, teacher, block, images, result.losses, params.image, params.caption)

    def student(self, payload: TrainStudent, output: UnitOutput) -> None:
        """Train the student of a curriculum and write its weights."""
        job, teacher = self._job, self._teacher
        of_curriculum = f"set {payload.number} curriculum {payload.curriculum}"
        model = self._fresh(payload.number)
        if payload.curriculum:
            model.load_state_dict(self._weights(payload.number, payload.curriculum - 1))
        trainer = Trainer(
            model,
            self._recovered(payload),
            payload.training,
            mean=teacher.mean,
            std=teacher.std,
            seed=job.seed(of_curriculum, "views"),
            soft_labels=online(teacher.model),
        )
        history = train_resumably(trainer, output)
        state = {name: value.detach().cpu().contiguous() for name, value in trainer.final.state_dict().items()}
        output.write(f"{output.unit.name}.safetensors", safetensors.torch.save(state))
        output.summary = {"loss": history[-1]["train_loss"]}

    def _shuffled(self, number: int) -> list[list[str]]:
        """Keys of the real images of every class, in the order in which a set's choices walk through them."""
        if number not in self._pools:
            self._pools = {number: shuffled_keys(self._train, self._job.seed(f"set {number}", "choice"))}
        return self._pools[number]

    def _chosen(self, number: int, curricula: range, first_class: int) -> dict[str, list[str]]:
        """Keys that some curricula chose for a chunk of classes, by class in the order of slots."""
        chosen: dict[str, list[str]] = {}
        for curriculum in curricula:
            choice = self._committed.json(f"{choice_name(number, curriculum, first_class)}.json")
            for label, keys in choice.items():
                chosen.setdefault(label, []).extend(keys)
        return chosen

    def _fresh(self, number: int) -> nn.Module:
        """A student that has not learnt anything."""
        name = self._job.params.student.network or self._teacher.network
        seed = self._job.seed(f"set {number} student", "init")
        teacher = self._teacher
        return build_network(name, len(teacher.classes), teacher.image_size, seed, "cudd.student.network").to(
            self._device
        )

    def _weights(self, number: int, curriculum: int) -> dict[str, torch.Tensor]:
        return safetensors.torch.load(self._committed.read(f"{student_name(number, curriculum)}.safetensors"))

    def _student(self, number: int, curriculum: int) -> nn.Module | None:
        """The student of the curricula before one, frozen and in eval mode; the first has none."""
        if not curriculum:
            return None
        if (number, curriculum) not in self._students:
            model = self._fresh(number)
            model.load_state_dict(self._weights(number, curriculum - 1))
            self._students = {(number, curriculum): model.eval().requires_grad_(False)}
        return self._students[number, curriculum]

    def _recovered(self, payload: TrainStudent) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of a set so far and their classes, class by class and slot by slot."""
        names = [images_name(payload.number, place) for place in range(len(payload.images))]
        parts = [load_arrays(self._committed.shard(name, "")) for name in names]
        held = {key: (part, place) for part in parts for place, key in enumerate(part.keys)}
        labels = range(len(self._teacher.classes))
        wanted = [
            held[slot_key(set_name("cudd", payload.number), label, slot)]
            for label in labels
            for slot in range(payload.ipc)
        ]
        images = torch.stack([torch.from_numpy(part.images[place]) for part, place in wanted])
        return images.to(self._device), torch.tensor([int(part.labels[place]) for part, place in wanted]).to(
            self._device
        )
