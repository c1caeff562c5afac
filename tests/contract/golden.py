"""The tiny jobs whose bytes `golden.json` pins, and what is pinned of each. `python -m tests.contract.golden` pins this tree.

Encoders of other releases pack the same pixels otherwise, and another processor rounds the sums of a training otherwise. Pinned are
therefore what a stage decides without either (keys, labels, rows, pixels that are moved and not computed), for every machine;
and every file it publishes, for the releases and the arithmetic that the pins were made with. The unit's markers, the plan and the
seal name units by content and are no product: they may change where no image does. The report is not here: nothing reads it, and
it shows what these tests pin.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from pipelines.commands.jobs import make_jobs
from pipelines.commands.runs import run_stage
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE
from pipelines.runtime.units import LEDGER
from pipelines.shards.sidecar import SCHEMA, read_sidecar
from pipelines.stages import get_stage
from pipelines.storage import Storage, canonical_json
from tests.contract.pictures import ingest_params, write_pictures

PINS = Path(__file__).with_name("golden.json")
#: Releases that decide how bytes are packed.
PACKERS = ("opencv-python-headless", "pyarrow")
#: And those that decide what a training ends with.
COMPUTERS = ("torch", "diffusers", "transformers", "peft")
#: Columns that depend on how an encoder packs pixels or a decoder words its trouble.
PACKING = {"members", "bytes", "detail"}

#: Pixels are moved and mapped here, not computed: no release of torch or OpenCV rounds them otherwise.
POLICY = [{"random_crop": {"size": 8, "padding": 2}}, "horizontal_flip", "invert", {"posterize": {"bits": [2, 6]}}]
RUN = {"seed": 0, "threads": 1, "device": "cpu"}
COPYING = ("ingest", "split", "augment")
COMPUTING = (
    "squeeze",
    "cda",
    "cudd",
    "dm",
    "coreset",
    "relabel",
    "generator",
    "datadream",
    "discl",
    "samples",
    "d3hr",
    "evaluate",
)

_TRAINING = {"batch_size": 8, "learning_rate": 0.05}
_ADAPTING = {"rank": 2, "steps": 3, "batch_size": 2, "warmup_steps": 1, "learning_rate": 0.01}
_QUICK = {"steps": 2, "guidance": 1.5, "scheduler": "ddim"}
_BUDGET = {"steps": 4, "batch": 4, "rate": 0.001}
_SHAPE = {"size": 32, "latents": 4, "vae": [8, 8, 8], "unet": [16, 16], "text": [32, 1], "image": [32, 1], "joint": 16}

#: Every kind of unit of the stages that compute: two classes of 32 px, networks of a few thousand weights.
COMPUTED: Mapping[str, Any] = {
    "run": RUN,
    "ingest": {
        "sources": [{"type": "folder", "path": f"source/{split}", "split": split} for split in ("train", "test")],
        "image": {"format": "png"},
    },
    "split": {
        "validation": 0.25,
        "few_shot": [2],
        "few_shot_seeds": [0, 1],
        "profiles": {"tail": {"tail": {"factor": 2, "largest": 6}, "groups": {"many": 5, "few": 4}}},
    },
    "squeeze": {"network": "convnet2_w8", "training": {"epochs": 2, **_TRAINING}},
    "cda": {"ipc": 2, "seeds": 2, "slots_per_unit": 1, "recover": {"iterations": 3, "jitter": 1, "log_every": 2}},
    "cudd": {
        "ipc": 2,
        "curricula": [1, 1],
        "slots_per_unit": 1,
        "recover": {"iterations": 3, "jitter": 1, "log_every": 2},
        "student": {"network": "convnet2_w4", "training": {"epochs": 2, "batch_size": 2}},
    },
    "dm": {
        "seeds": 2,
        "class_chunk": 1,
        "match": {
            "network": "convnet2_w8_in",
            "iterations": 4,
            "real_batch": 4,
            "pool": {"networks": 1, "snapshots": [1, 2], "batch_size": 8},
            "average": 0.5,
            "log_every": 2,
        },
    },
    "coreset": {"ipc": 2, "seeds": 2, "rows_per_unit": 7, "class_chunk": 1, "rded": {"images": 6, "crops": 2}},
    "relabel": {"epochs": 3, "batch_size": 2, "epochs_per_unit": 2},
    "generator": {
        "source": "train",
        "sheet_images": 1,
        "check_images": 4,
        "text": _QUICK,
        "classes": _QUICK,
        "train": {
            "scenes": "scenes/ingest",
            "shape": {**_SHAPE, "tokens": 16, "dit": [32, 1]},
            "vae": {**_BUDGET, "encoder_steps": 2},
            "clip": {**_BUDGET, "text_steps": 3},
            "unet": _BUDGET,
            "dit": _BUDGET,
        },
    },
    "datadream": {
        "variants": ["zero_shot", "cls", "dset", "loft"],
        "shots": [2],
        "images": 3,
        "images_per_unit": 2,
        "batch_size": 2,
        "adapt": _ADAPTING,
        "loft": {**_ADAPTING, "train_text": False},
        "generate": _QUICK,
        "filters": {"max_twin_cosine": 0.99999},
    },
    "discl": {
        "levels": [0, 50],
        "seeds": 1,
        "tries": 2,
        "images_per_unit": 2,
        "generate": {**_QUICK, "steps": 4},
        "curricula": {"epochs": 4, "curriculum_epochs": 3, "held_out": 1},
    },
    "samples": {
        "ipc": 2,
        "seeds": 2,
        "images_per_unit": 3,
        "batch_size": 2,
        "generate": _QUICK,
    },
    "d3hr": {
        "ipc": 3,
        "images_per_class": 4,
        "invert": {"steps": 10, "level": 500},
        "sweep": {"levels": [300]},
        "guidance": 1.5,
        "batch_size": 4,
        "images_per_unit": 5,
        "round_trip": 1,
        "reference": {"candidates": 10_000, "images_per_class": 4},
    },
    "evaluate": {
        "distilled": {
            "networks": ["convnet2_w8"],
            "seeds": 1,
            "arms": [
                *(f"{images}_{labels}" for images in ("distilled", "start", "random") for labels in ("soft", "hard")),
                *("distilled_online", "real_hard"),
            ],
            "soft": {"epochs": 2, "learning_rate": 0.01},
            "online": {"epochs": 2, "batch_size": 2, "learning_rate": 0.01},
            "hard": {"epochs": 2, "batch_size": 2, "learning_rate": 0.01},
            "full": {"epochs": 1, **_TRAINING},
        },
        "datadream": {
            "variants": ["zero_shot", "cls"],
            "shots": [2],
            "seeds": 1,
            "arms": ["zero_shot_clip", "pooled"],
            "classifier": {"epochs": 1, "warmup_epochs": 0, "batch_size": 4},
            "student": {"network": "convnet2_w8", "training": {"epochs": 1, **_TRAINING}},
        },
        "discl": {
            "network": "convnet2_w8",
            "training": {"epochs": 3, **_TRAINING},
            "arms": [
                *(
                    "ce",
                    "bs",
                    "ce_discl",
                    "bs_discl",
                    "crt",
                    "logit_adjustment",
                    "repeat_factor",
                    "strong_augmentation",
                ),
                "separate_norm",
            ],
            "seeds": 1,
            "strategies": ["diverse_to_specific", "adaptive"],
            "held_out": 1,
            "tau": [1.0],
        },
    },
}
_SCENES = {"type": "composed", "base": COMPUTED["ingest"]["sources"][0], "scenes": 6, "size": 32, "items": [1, 2]}


def copied(root: Path) -> Path:
    """A data folder with ingest, split and augment finished, from pictures that need no lossy decoder."""
    for path in write_pictures(root / "source", count=30).rglob("*.jpg"):
        path.unlink()
    sets = {"views": {"policy": POLICY, "views": 2, "format": "png", "boxes": "foreground", "threshold": 128}}
    params = {"run": {**RUN, "threads": 2}, "ingest": ingest_params(Path("source")), "split": {"validation": 0.25}}
    return _run(root, {**params, "augment": {"sets": sets}}, COPYING)


def computed(root: Path) -> Path:
    """A data folder with every stage that computes finished."""
    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(("left", "right")):
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                cv2.imwrite(str(folder / f"{place:03d}.png"), small_picture(label, 20 * (split == "test") + place))
    _run(root, {"run": RUN, "ingest": {"sources": [_SCENES], "image": {"format": "png"}}}, ["ingest"], "scenes")
    return _run(root, COMPUTED, ("ingest", "split", *COMPUTING))


def small_picture(label: int, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A bright square or a bright bar with a pattern on black, by whole-number arithmetic only."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    high = 22 if label else 12
    rows, columns, _ = np.indices((high, 14, 1))
    pixels[5 : 5 + high, 8:22] = 120 + (rows * (3 + number) + columns * (5 + 2 * label) + number * 29) % 130
    return pixels


def _run(root: Path, params: Mapping[str, Any], stages: Any, data: str = "data") -> Path:
    """Run stages by their names with relative paths, as a parameter file has them."""
    path = root / f"{data}.yaml"
    path.write_text(yaml.safe_dump(dict(params)))
    with chdir(root):
        for stage in stages:
            for job in make_jobs(stage, path, data=data):
                run_stage(job, "serial", debug=True)
    return root / data


def decisions(folder: Path) -> str:
    """SHA-256 over every member of every shard (images as pixels), every row and every class name."""
    digest = hashlib.sha256()
    storage = Storage(folder)
    columns = [name for name in SCHEMA.names if name not in PACKING]
    for path in storage.list():
        if path.endswith(".tar"):
            with tarfile.open(folder / path) as shard:
                for member in shard:
                    body = shard.extractfile(member)
                    assert body is not None
                    raw = body.read()
                    if member.name.endswith(".png"):
                        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
                        raw = repr(pixels.shape).encode() + pixels.tobytes()
                    digest.update(canonical_json([path, member.name, hashlib.sha256(raw).hexdigest()]))
        elif "meta/" in path:
            digest.update(canonical_json([path, read_sidecar(storage, path, columns).to_pylist()]))
        elif path.rsplit("/", 1)[-1] in ("classes.json", "sizes.json", "few_shot.json"):
            digest.update(canonical_json([path, storage.read_bytes(path).decode()]))
    return digest.hexdigest()


def products(folder: Path) -> dict[str, str]:
    """The first 16 hex characters of the SHA-256 of every file that a stage, or its items, published."""
    bookkeeping = {LEDGER, PLAN_FOLDER, STAGE_FILE, CONFIG_FILE}
    storage = Storage(folder)
    paths = [path for path in storage.list() if not bookkeeping.intersection(path.split("/"))]
    return {path: hashlib.sha256(storage.read_bytes(path)).hexdigest()[:16] for path in paths}


def releases(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in packages}


def arithmetic() -> str:
    """How this machine rounds: a digest of what torch makes of convolutions, products and their gradients."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images, kernels = (torch.randn(*shape, generator=generator) for shape in ((4, 8, 32, 32), (16, 8, 3, 3)))
    kernels.requires_grad_(True)
    features = functional.conv2d(images, kernels, padding=1).flatten(2).mean(2)
    loss = (torch.softmax(features @ features.T, 1).log() * torch.linspace(-1, 1, 16).reshape(4, 4)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert kernels.grad is not None
    return hashlib.sha256(kernels.grad.numpy().tobytes()).hexdigest()[:16]


def pins() -> dict[str, Any]:
    """What `golden.json` holds, made here and now."""
    form: dict[str, Any] = {"releases": releases(PACKERS + COMPUTERS), "arithmetic": arithmetic(), "stages": {}}
    for make, stages in ((copied, COPYING), (computed, COMPUTING)):
        with tempfile.TemporaryDirectory() as root:
            data = make(Path(root))
            for stage in stages:
                pin = form["stages"][stage] = {"version": get_stage(stage).version}
                if stage in COPYING:
                    pin["decisions"] = decisions(data / stage)
                pin["products"] = products(data / stage)
    return form


if __name__ == "__main__":
    PINS.write_text(json.dumps(pins(), indent=1, sort_keys=True) + "\n")
