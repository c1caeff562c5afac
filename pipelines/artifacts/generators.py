"""What the `generator` stage left for other stages: which model plays which role, where it is, and its identity by content.

`text` makes images of prompts, `classes` of class numbers, `clip` compares images with texts. Files and JSON only, no models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipelines.artifacts.datasets import finished
from pipelines.artifacts.families import FAMILY_FILE, described
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.runtime.units import FileEntry
from pipelines.storage import Storage

if TYPE_CHECKING:
    from synth.family.config import Family

Role = Literal["text", "classes", "clip"]
ROLES: tuple[Role, ...] = get_args(Role)
GENERATOR_FILE = "generator.json"

#: Families by the beginning of a pipeline's class name, the longer first; another class stands for itself.
_FAMILIES = {
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd3",
    "StableDiffusionGLIGEN": "gligen",
    "StableDiffusion": "sd",
    "LatentConsistency": "sd",
    "Flux": "flux",
    "DiT": "dit",
}
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
#: Latent cells to a side where a transformer's configuration does not say.
_DEFAULT_SAMPLE = 128


@dataclass(frozen=True)
class Generator:
    """One model. `kind` folder: `model` is a folder inside the stage's output; reference: a path or an id on the Hub.

    `digest` (hex) is `folder_digest` of a folder, or of an id and its revision. `native_size` is height and width in pixels, where
    the configuration tells it.
    """

    kind: Literal["folder", "reference"]
    model: str
    family: str
    native_size: tuple[int, int] | None
    digest: str
    revision: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def generator_of(job: Job[Any], role: Role) -> Generator:
    """What plays this role, as generator.json has it; `UserError` when nothing does."""
    output = finished(job, "generator")
    form = output.json(GENERATOR_FILE)[role]
    if form is None:
        mend = f"set generator.model.{role} to a folder or an id"
        if output.has(FAMILY_FILE):
            mend = (
                f"give the family scenes to learn from (generator.train.scenes), or with generator.source: model {mend}"
            )
        raise UserError(
            f"{job.stage} needs a {role} model and {output.storage.url}/{GENERATOR_FILE} has none; {mend}, then: limbeck run generator"
        )
    size = form["native_size"]
    return Generator(**{**form, "native_size": None if size is None else (size[0], size[1])})


def family_of(job: Job[Any]) -> Family | None:
    """The small family that the generators of text and classes are, None where pretrained models were named."""
    output = finished(job, "generator")
    return described(output.read(FAMILY_FILE), output.storage.url) if output.has(FAMILY_FILE) else None


def generator_model(job: Job[Any], role: Role) -> str:
    """The folder or the id to load. A folder's files are hashed: they must be those that the stage left, or was given."""
    generator = generator_of(job, role)
    if generator.kind == "reference":
        folder = Path(generator.model).expanduser()
        if folder.exists() and folder_digest(folder) != generator.digest:
            raise UserError(
                f"the {role} model in {folder} is another than when the generator stage took it; restore it, or: limbeck run "
                f"generator"
            )
        return generator.model
    storage = job.input("generator").child(generator.model)
    if not storage.is_local:
        raise UserError(
            f"{storage.url} is not a local folder, and models are loaded from one; copy it beside the machine"
        )
    if folder_digest(storage.root) != generator.digest:
        raise UserError(
            f"the {role} model in {storage.url} is not the one that generator left; restore it, or make it again: limbeck run "
            f"generator --verify"
        )
    return str(storage.root)


def generator_digest(job: Job[Any], role: Role) -> str:
    """The identity of the model by content: what a later stage puts into its units."""
    return generator_of(job, role).digest


def generator_bytes(job: Job[Any], role: Role) -> int:
    """Bytes of the weight files that have to be there to make images: denoiser, autoencoder, and for `text` the text encoders too."""
    generator = generator_of(job, role)
    if generator.kind == "folder":
        folder = job.input("generator").child(generator.model).root
    else:
        named = Path(generator.model).expanduser()
        folder = named if named.exists() else _snapshot(generator.model, role)
    parts = ("unet", "transformer", "vae", *(_TEXT_ENCODERS if role == "text" else ()))
    sizes: dict[str, int] = {}
    for path in sorted(path for part in parts for path in (folder / part).glob("*.safetensors")):
        # One weight may lie there in several precisions (x.safetensors, x.fp16.safetensors): one of them is enough.
        name = path.relative_to(folder).as_posix().replace(".fp16.", ".")
        sizes[name] = min(path.stat().st_size, sizes.get(name, path.stat().st_size))
    return sum(sizes.values())


def files_digest(hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) of the lines `HASH  PATH`, sorted, of a folder's files: that of their sha256sum, sorted."""
    lines = sorted(f"{digest}  {path}\n" for path, digest in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """`files_digest` of all files below `folder`, hidden ones left out."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            with path.open("rb") as handle:
                hashes[relative.as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return files_digest(hashes)


def made_folder(storage: Storage, role: Role, files: Iterable[FileEntry]) -> Generator:
    """The entry of a folder that units committed in `storage` under the role's name."""
    inside = {file.path.removeprefix(f"{role}/"): file.sha256 for file in files if file.path.startswith(f"{role}/")}
    family, size = _described(storage.root / role, role)
    return Generator("folder", role, family, size, files_digest(inside))


def reference(model: str, role: Role) -> Generator:
    """The entry of a pretrained model, a local folder or `owner/name`; `UserError` when it is not there or of another kind."""
    folder = Path(model).expanduser()
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        if not (folder / _index(role)).is_file():
            lack = f"has no {_index(role)}" if folder.is_dir() else "is not a folder"
            raise UserError(
                f"generator.model.{role}: {folder.absolute()} {lack}; give a folder that save_pretrained wrote, or an id such as "
                "owner/name"
            )
        family, size = _described(folder, role)
        return Generator("reference", model, family, size, folder_digest(folder))
    snapshot = _snapshot(model, role)
    family, size = _described(snapshot, role)
    digest = hashlib.sha256(f"{model}@{snapshot.name}".encode()).hexdigest()
    return Generator("reference", model, family, size, digest, revision=snapshot.name)


def class_labels(model: str) -> list[str] | None:
    """The class names of a pretrained class model by label, where its model_index.json has them (`id2label`)."""
    folder = Path(model).expanduser()
    index = _json((folder if folder.exists() else _snapshot(model, "classes")) / _index("classes"))
    named = index.get("id2label")
    if not isinstance(named, dict) or sorted(named) != sorted(str(label) for label in range(len(named))):
        return None
    return [str(named[str(label)]) for label in range(len(named))]


def class_count(model: str) -> int | None:
    """How many classes a pretrained class model has, where its transformer's config.json says so."""
    folder = Path(model).expanduser()
    count = _json((folder if folder.exists() else _snapshot(model, "classes")) / "transformer/config.json").get(
        "num_embeds_ada_norm"
    )
    return count if isinstance(count, int) else None


def _snapshot(model: str, role: Role) -> Path:
    """The local folder of an id's revision with at least its configurations."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise UserError("models by id need diffusers; pip install 'limbeck[synth]', or give a folder") from None
    try:
        path = Path(hf_hub_download(model, _index(role)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"generator.model.{role}: neither a folder {model}, nor has the local Hub cache or the Hub the file {_index(role)} of "
            f"that id; run `hf download {model}` where there is a network, or give a folder"
        ) from error
    for name in ("vae/config.json", "unet/config.json", "transformer/config.json") if role != "clip" else ():
        try:
            hf_hub_download(model, name, revision=path.parent.name)
        except (OSError, ValueError):
            continue  # a model has one of the two denoisers; without any of these only its size is not known
    return path.parent


def _index(role: Role) -> str:
    return "config.json" if role == "clip" else "model_index.json"


def _described(folder: Path, role: Role) -> tuple[str, tuple[int, int] | None]:
    """(family, native size) from a model folder's configurations; `UserError` when it cannot play the role."""
    index = _json(folder / _index(role))
    if role == "clip":
        if index.get("model_type") != "clip" or "vision_config" not in index:
            raise UserError(f"generator.model.clip: {folder} holds a {index.get('model_type')!r}; it takes a CLIPModel")
        side = index["vision_config"].get("image_size", 224)
        return "clip", (side, side)
    name = index.get("_class_name", "")
    name = name if isinstance(name, str) else str(name[-1])
    if (role == "classes") != name.startswith("DiT"):
        takes = "a DiTPipeline" if role == "classes" else "a pipeline that makes images of prompts"
        raise UserError(
            f"generator.model.{role}: {folder} holds a {name or 'folder of another kind'}; it takes {takes}"
        )
    family = next((short for start, short in _FAMILIES.items() if name.startswith(start)), name)
    return family, _native_size(folder)


def _native_size(folder: Path) -> tuple[int, int] | None:
    vae = _json(folder / "vae/config.json").get("block_out_channels")
    denoiser = next(
        (path for part in ("unet", "transformer") if (path := folder / part / "config.json").is_file()), None
    )
    if vae is None or denoiser is None:
        return None
    sample = _json(denoiser).get("sample_size") or _DEFAULT_SAMPLE
    height, width = (sample, sample) if isinstance(sample, int) else sample
    factor = 2 ** (len(vae) - 1)
    return int(height * factor), int(width * factor)


def _json(path: Path) -> dict[str, Any]:
    try:
        form = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); is the model's folder whole?") from None
    return form if isinstance(form, dict) else {}
