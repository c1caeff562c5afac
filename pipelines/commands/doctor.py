"""`limbeck doctor`: is this machine fit, and if not, what to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pipelines.commands.extras import BESIDE, is_installed, packages_by_extra, purposes
from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.images.params import ImageParams
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.stages import STAGES
from pipelines.storage import Storage


def doctor_view(data: str) -> tuple[View, bool]:
    """One row per check; False if something that every stage needs is broken."""
    checks = [_checked("image path", *_images()), _checked("disk", *_disk(data))]
    sound = all(one["ok"] for one in checks)
    checks += _optional()
    advice = "run.threads and --workers together should not exceed this"
    checks += [_checked("cores", None, str(os.cpu_count()), advice), _checked("accelerator", *_accelerator())]
    table = new_table("limbeck doctor")
    for name in ("check", "result", "what to do"):
        table.add_column(name)
    for place, one in enumerate(checks):
        bad = "red" if place < 2 else "yellow"  # what every stage needs comes first
        colour = "" if one["ok"] is None else "green" if one["ok"] else bad
        add_row(table, one["check"], styled(one["result"], colour), one["advice"])
    return View({"ok": sound, "checks": checks}, [table]), sound


def _optional() -> list[dict[str, Any]]:
    """A check for every package of every extra: which stages, or what else, asks for it."""
    packages, asked = packages_by_extra(), purposes()
    bringing: dict[str, list[str]] = {}
    for extra in asked:
        for package in packages.get(extra, []):
            bringing.setdefault(package, []).append(extra)
    checks = []
    for package, extras in bringing.items():
        users = [name for name in [*STAGES, *BESIDE.values()] if any(name in asked[extra] for extra in extras)]
        installed = is_installed(package)
        advice = "" if installed else f"pip install 'limbeck[{extras[0]}]'"
        result = "installed" if installed else "not installed"
        checks.append(_checked(f"{package} ({', '.join(users)})", installed, result, advice))
    return checks


def _checked(check: str, ok: bool | None, result: str, advice: str) -> dict[str, Any]:
    return {"check": check, "ok": ok, "result": result, "advice": advice}


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


def _accelerator() -> tuple[bool | None, str, str]:
    if importlib.util.find_spec("torch") is None:
        return None, "unknown", "install torch to look"
    import torch

    if torch.cuda.is_available():
        return True, torch.cuda.get_device_name(0), ""
    return None, "none: stages run on the CPU", ""
