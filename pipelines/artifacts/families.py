"""The folder that holds a trained family in small: weights in half precision, tokenizer, description, checksums, card.

It is what `generator` with `source: train` makes, and what the package has embedded.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import sample
from pipelines.errors import UserError
from pipelines.storage import Storage, pretty_json
from synth.family.config import PARTS

if TYPE_CHECKING:
    from torch import Tensor

    from synth.family.config import Family

FAMILY_FILE = "family.json"
SUMS_FILE = "SHA256SUMS"
CARD_FILE = "MODEL_CARD.md"
TOKENIZER = "tokenizer"
TOKENIZER_CONFIG = "tokenizer_config.json"
#: What a family's card calls its models.
_ALL_MODELS = """\
Four small models that were trained from nothing by `limbeck run generator` with `source: train`, so that every method of
Limbeck runs on a CPU: an autoencoder (`vae`), a CLIP (`clip`), a text-conditional UNet (`unet`) and a class-conditional
transformer (`dit`)"""
_CLASS_MODELS = """\
Two small models that were trained from nothing by `limbeck run generator` with `source: train` and no scenes: an autoencoder
(`vae`) and a class-conditional transformer (`dit`); none that reads texts"""
#: Classes named in a sentence.
_NAMED = 4


@dataclass(frozen=True)
class StoredFamily:
    """A family in memory: `parts` the state dict of each part, `tokenizer` its files by name."""

    family: Family
    parts: Mapping[str, Mapping[str, Tensor]]
    tokenizer: Mapping[str, bytes]

    def load_tokenizer(self) -> Any:
        """The tokenizer itself, None of a family without words."""
        return tokenizer_of(self.tokenizer) if self.family.vocabulary else None


def embedded_family() -> Storage:
    """The folder of the family that is part of this package."""
    return Storage(sample.folder("generator"))


def sums_digest(storage: Storage) -> str:
    """The identity of a family's folder; `UserError` when there is none."""
    if not storage.exists(SUMS_FILE):
        raise UserError(
            f"no family of generators at {storage.url}: it has no {SUMS_FILE}. Train one (recipes/reference_family.yaml) and give its "
            "folder as generator.folder, or set generator.source: model and name pretrained ones"
        )
    return hashlib.sha256(storage.read_bytes(SUMS_FILE)).hexdigest()


def family_files(storage: Storage) -> dict[str, bytes]:
    """The files that SHA256SUMS names, by relative path, each checked; `UserError` for one that is missing or damaged."""
    sums_digest(storage)
    embedded = storage.url == embedded_family().url
    mend = "install the package again" if embedded else "copy the folder again, or choose another generator.folder"
    files = {}
    for line in storage.read_bytes(SUMS_FILE).decode().splitlines():
        digest, _, path = line.partition("  ")
        if not storage.exists(path):
            raise UserError(f"{storage.url} lacks {path}, which its {SUMS_FILE} names; {mend}")
        data = storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{storage.url}/{path} is not the file that {SUMS_FILE} names; {mend}")
        files[path] = data
    return files


def described(data: bytes, where: str) -> Family:
    """The family of a family.json's bytes; `UserError` naming `where` when it is none."""
    from synth.family.config import Family

    try:
        return Family.from_json(json.loads(data))
    except ValueError as error:
        raise UserError(f"{where}/{FAMILY_FILE}: {error}") from None


def unknown_classes(family: Family, names: Mapping[str, str]) -> list[str]:
    """The classes that a family was never shown, of those in `names`: class name -> what prompts call it."""
    shown = {word.casefold() for word in (*family.classes, *family.nouns)}
    return [name for name, noun in names.items() if shown.isdisjoint({name.casefold(), noun.casefold()})]


def knowledge_sentence(family: Family, unknown: Sequence[str], of: int) -> str:
    """What a family knows, and what it is asked for and does not: `unknown` classes of so many."""
    embedded = described(embedded_family().read_bytes(FAMILY_FILE), "the package").classes == family.classes
    knows = "The embedded generators know ten kinds of clothing" if embedded else "These generators know what they saw"
    share = "none" if len(unknown) == of else f"not {len(unknown)}"
    return (
        f"{knows} ({_few(family.classes)}) and {share} of the {of} classes here ({_few(unknown)}): images of these show something else. "
        "Pretrained ones: generator.source: model and generator.model.text"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def load_family(files: Mapping[str, bytes], where: str) -> StoredFamily:
    """A family from its files; `UserError` naming `where` when one is missing."""
    import safetensors.torch

    names = described(files[FAMILY_FILE], where).parts if FAMILY_FILE in files else PARTS
    wanted = [FAMILY_FILE, *(f"{part}.safetensors" for part in names)]
    if missing := [name for name in wanted if name not in files]:
        words = f" and {TOKENIZER}/" if names == PARTS else ""
        raise UserError(f"the family at {where} has no {missing[0]}; it takes {', '.join(wanted)}{words}")
    parts = {part: safetensors.torch.load(files[f"{part}.safetensors"]) for part in names}
    prefix = f"{TOKENIZER}/"
    words_of = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
    return StoredFamily(described(files[FAMILY_FILE], where), parts, words_of)


def family_folder(
    family: Family, parts: Mapping[str, bytes], tokenizer: Mapping[str, bytes], card: str | None = None
) -> dict[str, bytes]:
    """All files of a family's folder, by path: `parts` are safetensors by part, `tokenizer` its files by name."""
    files = {f"{part}.safetensors": data for part, data in parts.items()}
    files |= {f"{TOKENIZER}/{name}": data for name, data in tokenizer.items()}
    files |= {FAMILY_FILE: pretty_json(family.to_json()), CARD_FILE: (card or model_card(family)).encode()}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return files | {SUMS_FILE: sums.encode()}


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """What a tokenizer's save_pretrained writes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return folder_bytes(Path(folder))


def tokenizer_of(files: Mapping[str, bytes]) -> Any:
    """The CLIP tokenizer that `tokenizer_files` wrote."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return CLIPTokenizer.from_pretrained(folder)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Read every file below that `save_pretrained` wrote, by relative path; none says how this process reached the Hub."""
    return {
        path.relative_to(folder).as_posix(): _without_the_process(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _without_the_process(path: Path) -> bytes:
    """The content of a file; of a tokenizer's, as where the Hub may be asked: transformers notes there whether HF_HUB_OFFLINE was set."""
    if path.name != TOKENIZER_CONFIG:
        return path.read_bytes()
    form = json.loads(path.read_bytes())
    if "local_files_only" in form:
        form["local_files_only"] = False
    return (json.dumps(form, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def model_card(family: Family) -> str:
    """What people should know of a family before they use it."""
    shape, models = family.shape, _ALL_MODELS if family.vocabulary else _CLASS_MODELS
    facts = "\n".join(f"- {name}: {value}" for name, value in sorted(family.facts.items()))
    return f"""\
# A reference family of generators

{models}, for images of {shape.size} x {shape.size} pixels and {len(family.classes)} classes:
{", ".join(family.classes)}. Weights are stored in half precision.

Trained on:

{facts or "- nothing that is recorded"}

They know nothing but these images. They are for tests, demonstrations and comparisons of methods on equal terms; figures
measured with them say nothing of the same methods with large pretrained generators.
"""
