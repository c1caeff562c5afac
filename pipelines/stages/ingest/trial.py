"""Reads one record in a process of its own, to see whether that is what processes die of: `python -m ...ingest_trial`.

Only asked for when two processes died with the record in hand (`runtime.in_hand`). Decoding needs no trial: it has
processes of its own already.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import pipelines
from pipelines.outcomes import Outcome, failed
from pipelines.sources import Record, SourceParams, open_source

#: A trial that is killed from outside proves nothing, unless it happens each time.
_TRIES = 3


def tried(source: SourceParams, record: Record) -> Outcome | None:
    """The outcome of a record that ends whoever reads it; None for one that can be read, or that fails as usual."""
    fields = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    fields["sha256"] = base64.b64encode(record.sha256).decode() if record.sha256 else None
    asked = json.dumps({"source": source.model_dump(mode="json"), "record": fields}).encode()
    root = str(Path(pipelines.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    code = 0
    for _ in range(_TRIES):
        code = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=asked,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        ).returncode
        if code >= 0:
            return None
        if -code not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            break
    name = signal.Signals(-code).name
    return failed(
        "quarantined", detail=f"processes that read it end with {name}; it was left out so that the unit goes on"
    )


def main() -> None:
    """Read the record that standard input describes; errors that Python can tell are no death."""
    asked: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    fields = asked["record"]
    if fields["sha256"] is not None:
        fields["sha256"] = base64.b64decode(fields["sha256"])
    source = open_source(TypeAdapter[Any](SourceParams).validate_python(asked["source"]))
    try:
        source.read(Record(**fields))
    except Exception:
        return


if __name__ == "__main__":
    main()
