"""`limbeck doctor`: is this machine fit, and if not, what to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path

from rich.table import Table

from pipelines.commands.tables import add_row, new_table, styled
from pipelines.images.params import ImageParams
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.storage import Storage

#: Optional packages: what they are for and the extra that brings them.
OPTIONAL = {
    "torch": ("augment, squeeze, cda, relabel, evaluate", "limbeck[distill]"),
    "kornia": ("augment with backend: kornia", "limbeck[augment]"),
    "timm": ("networks by name", "limbeck[distill]"),
    "diffusers": ("generator, datadream", "limbeck[synth]"),
    "transformers": ("generator, datadream", "limbeck[synth]"),
    "peft": ("datadream, evaluate", "limbeck[synth]"),
    "ray": ("--runner ray", "limbeck[ray]"),
    "dvc": ("dvc repro", "limbeck[dvc]"),
}


def doctor_table(data: str) -> tuple[Table, bool]:
    """One row per check; False if something that every stage needs is broken."""
    table = new_table("limbeck doctor")
    for name in ("check", "result", "what to do"):
        table.add_column(name)
    sound = True
    for name, check in {"image path": _images, "disk": lambda: _disk(data)}.items():
        good, result, advice = check()
        sound &= good
        add_row(table, name, styled(result, "green" if good else "red"), advice)
    for package, (purpose, extra) in OPTIONAL.items():
        found = importlib.util.find_spec(package) is not None
        result = "[green]installed[/]" if found else "[yellow]not installed[/]"
        table.add_row(f"{package} ({purpose})", result, "" if found else f"pip install '{extra}'")
    table.add_row("cores", str(os.cpu_count()), "run.threads and --workers together should not exceed this")
    table.add_row("accelerator", *_accelerator())
    return table, sound


def _images() -> tuple[bool, str, str]:
    pixels = bytes(range(256)) * 3
    made = process(b"P6\n16 16\n255\n" + pixels, ImageParams())
    if isinstance(made, Outcome):
        return False, f"{made.reason}: {made.detail}", "reinstall opencv-python-headless, simplejpeg and pillow"
    return True, f"decodes and encodes {made.ext}", ""


def _disk(data: str) -> tuple[bool, str, str]:
    storage = Storage(data)
    if not storage.is_local:
        return True, f"{storage.url}: object storage, not measured", ""
    existing = next(path for path in [storage.root, *storage.root.parents] if path.exists())
    free = shutil.disk_usage(existing).free
    speed = _write_speed(existing)
    good = free > 1 << 30 and speed is not None
    shown = f"{free / 2**30:.1f} GiB free, " + (f"{speed:.0f} MiB/s with fsync" if speed else "not writable")
    return good, shown, "" if good else f"free space in {existing} or use --data"


def _write_speed(folder: Path) -> float | None:
    block = os.urandom(1 << 20)
    path = folder / f".tmp-doctor-{os.getpid()}"
    start = time.perf_counter()
    try:
        with path.open("wb") as handle:
            path.unlink()  # no kill leaves it behind
            for _ in range(16):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError:
        return None
    return 16 / (time.perf_counter() - start)


def _accelerator() -> tuple[str, str]:
    if importlib.util.find_spec("torch") is None:
        return "unknown", "install torch to look"
    import torch

    if torch.cuda.is_available():
        return f"[green]{torch.cuda.get_device_name(0)}[/]", ""
    return "none: stages run on the CPU", ""
