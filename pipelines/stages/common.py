"""What several stages do alike: name an input by content, settle the device, write tables, read the teacher."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from augment.values import WIDEST, require_spread
from distill.errors import DivergedError
from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.shards.dataset import Dataset
from pipelines.shards.index import INDEX
from pipelines.storage import Storage
from synth.errors import SynthError

if TYPE_CHECKING:
    import torch
    from torch import nn

_Mean = Annotated[float, Field(ge=-WIDEST, le=WIDEST, allow_inf_nan=False)]
_Spread = Annotated[float, Field(ge=1 / WIDEST, le=WIDEST, allow_inf_nan=False)]
#: A number for each channel; and one that images are divided by.
Channels = tuple[_Mean, _Mean, _Mean]
Spreads = tuple[_Spread, _Spread, _Spread]

TEACHER_FILE = "teacher.json"
TEACHER_WEIGHTS = "teacher.safetensors"
METRICS_FILE = "metrics.json"


def _text_keys(value: Any) -> Any:
    """YAML reads a bare 0 as a number and a bare no as a switch: say how the name is written."""
    for key in value if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is no text to YAML; write class names in quotes, such as '0' or 'no'")
    return value


def _not_blank(names: dict[str, str]) -> dict[str, str]:
    if blank := [name for name, told in names.items() if not told.strip()]:
        raise ValueError(
            f"class {blank[0]!r} is called by an empty text; give it words, or leave it out to use its name"
        )
    return names


#: Class name -> what prompts call it.
Names = Annotated[dict[str, str], BeforeValidator(_text_keys), AfterValidator(_not_blank)]


#: Options of a training that mean nothing with hard labels.
SOFT_ONLY = dict.fromkeys(("soft_loss", "temperature", "t_squared"), "its labels are hard")


def refuse_ignored(given: Any, section: str, ignored: Mapping[str, str]) -> None:
    """`ValueError` for an option under `section` (with dots) of a raw parameter mapping that would not be used, with the reason: a
    reader would take it for what was done."""
    asked = given
    for name in section.split("."):
        asked = asked.get(name) if isinstance(asked, Mapping) else None
    for name in asked if isinstance(asked, Mapping) else ():
        if name in ignored:
            raise ValueError(f"{section}.{name} would be ignored: {ignored[name]}; leave it out")


def file_digest(storage: Storage, path: str) -> str:
    """SHA-256 (hex) of a file; the identity of whatever it indexes."""
    return hashlib.sha256(storage.read_bytes(path)).hexdigest()


def finished(job: Job[Any], stage: str, item: str = "") -> Finished:
    """The output of an earlier stage, every file of it checked, or a sentence that names the command which makes it."""
    return Finished(job.input(stage, item), f"{stage}@{item}" if item else stage)


def open_part(job: Job[Any], stage: str, part: str = "") -> Dataset:
    """The finished dataset that an earlier stage left, or a sentence that names the command which makes it."""
    made = finished(job, stage)
    dataset = made.dataset(part)
    if dataset is None:
        have = ", ".join(filter(None, made.parts())) or "none"
        raise UserError(f"{stage} made no {part} dataset (it made: {have}); see {stage} in params.yaml")
    return dataset


def commonest_share(dataset: Dataset) -> float:
    """The accuracy of whoever names a dataset's commonest class every time: what a network that knows nothing may reach."""
    labels = dataset.rows(["label"])["label"].to_pylist()
    return max(Counter(labels).values(), default=0) / max(len(labels), 1)


def dataset_digest(dataset: Dataset) -> str:
    """The identity of a dataset: the hash of its index, which holds the hash of every shard."""
    return file_digest(dataset.storage, INDEX)


def stage_digest(job: Job[Any], stage: str) -> str:
    """The identity of an earlier stage's whole output."""
    return file_digest(finished(job, stage).storage, STAGE_FILE)


def torch_device(job: Job[Any]) -> torch.device:
    """The device of this worker, with its thread count set."""
    import torch

    torch.set_num_threads(job.run.threads)
    if job.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device is cuda but torch sees no CUDA device; use run.device: auto or cpu")
    use_cuda = job.run.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def require_synth(what: str) -> None:
    """Refuse to begin when a package of the `synth` extra is not installed."""
    for package in ("torch", "diffusers", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs {package}; pip install 'limbeck[synth]'")


def csv_bytes(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """A table for plots: a header, then one line per row; floats with nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(name, "") for name in columns)
        writer.writerow([f"{value:.9g}" if isinstance(value, float) else value for value in values])
    return text.getvalue().encode()


def build_network(name: str, classes: int, image_size: int, seed: int, key: str) -> nn.Module:
    """A network by name; a wrong name is an error of the parameter `key`."""
    from distill.networks import build

    try:
        return build(name, classes, image_size, seed)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None


@dataclass(frozen=True)
class Teacher:
    """The network that `squeeze` left, in eval mode and frozen, and what it expects of its input."""

    model: nn.Module
    network: str
    classes: list[str]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(job: Job[Any], device: torch.device) -> Teacher:
    """Read the teacher of the `squeeze` stage; `UserError` for one whose numbers cannot be a network's."""
    import safetensors.torch

    from distill.soundness import fault_of

    squeeze = finished(job, "squeeze")
    facts = squeeze.json(TEACHER_FILE)
    model = build_network(facts["network"], len(facts["classes"]), facts["image_size"], 0, "squeeze.network")
    model.load_state_dict(safetensors.torch.load(squeeze.read(TEACHER_WEIGHTS)))
    if (fault := fault_of(model)) is not None:
        raise UserError(
            f"the teacher in {squeeze.storage.url} is broken: {fault}; lower squeeze.training.learning_rate, then: limbeck run squeeze"
        )
    model.to(device).eval().requires_grad_(False)
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    try:
        require_spread(mean, std)
    except ValueError as error:
        raise UserError(
            f"the teacher in {squeeze.storage.url} is broken: {error}; run again: limbeck run squeeze"
        ) from None
    return Teacher(model, facts["network"], facts["classes"], facts["image_size"], mean, std)


def require_classes(found: Sequence[str], teacher: Sequence[str], where: str) -> None:
    """A wrong class order is the commonest reason for a result that cannot be reproduced."""
    if list(found) != list(teacher):
        raise UserError(
            f"the classes of {where} are not the teacher's, or not in its order: {list(found)[:5]}... against "
            f"{list(teacher)[:5]}...; run squeeze again on this data"
        )


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Makes an error of `synth`, or a training that diverged, the user's, who is told what it is about.

    A divergence would come again: nobody is told to run the stage once more as it is.
    """
    try:
        yield
    except (SynthError, DivergedError) as error:
        raise UserError(f"{what}: {error}") from None
