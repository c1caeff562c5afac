"""What D3HR costs beside the published way.

    python -m tests.bench.d3hr [selection inversion] [--json FOLDER]

Each part is a module of this package and says what it measures; without names all parts run, one after the other. With `--json`
a part's results go to FOLDER/d3hr-PART-cpu-2core.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path

# Before torch: waiting threads must sleep, or they burn the CPU time that is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console

PARTS = ("selection", "inversion")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="the parts to measure")
    parser.add_argument("--json", type=Path, help="also write the results into this folder")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    console = Console(width=120)
    for part in options.parts or PARTS:
        module = importlib.import_module(f"tests.bench.d3hr.{part}")
        result = module.measure()
        module.show(result, console)
        if options.json:
            machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
            path = options.json / f"d3hr-{part}-cpu-2core.json"
            path.write_text(json.dumps(result | machine, indent=2) + "\n")


if __name__ == "__main__":
    main()
