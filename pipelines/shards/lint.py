"""Checks a WebDataset, ours or anyone's: a tar, a folder of tars, a dataset folder, or a folder of datasets.

Everything wrong is a finding, never an exception; only a location that cannot be read at all raises. A dataset of ours
is recognised by its `index.json` (or by `meta/*.parquet`, when it is unfinished) and checked by `lint_dataset`. What is
checked inside a tar is in `lint_shard`, what belongs to a whole stage in `pipelines.runtime.lint_stage`.
"""

from __future__ import annotations

import json

from pipelines.errors import UserError
from pipelines.shards.findings import Finding, Findings, LintReport
from pipelines.shards.index import INDEX
from pipelines.shards.lint_dataset import Checker
from pipelines.shards.lint_keys import KeyHashes, report_repeated
from pipelines.shards.lint_shard import Decode
from pipelines.shards.members import COMPRESSED
from pipelines.shards.publish import CLASSES_FILE
from pipelines.storage import Storage

__all__ = ["Finding", "LintReport", "lint"]


def lint(url: str, decode: Decode | None = None) -> LintReport:
    """Check what lies at `url`; raises `UserError` when nothing is there.

    `decode` takes encoded image bytes (and whether they are ours) and raises when they are unsound; without it only the
    first bytes of images are looked at. Shards are streamed; what grows with the dataset is 8 bytes a sample.
    """
    storage, files = found_at(url)
    checker = Checker(Findings(), decode)
    if not check_datasets(checker, storage, files):
        check_tars(checker, storage, files)
    return checker.report()


def found_at(url: str) -> tuple[Storage, list[str]]:
    """The folder of a dataset or of one tar, and the paths in it that are meant; `UserError` when nothing is there."""
    if url.endswith(".tar"):
        folder, _, name = url.rpartition("/")
        storage = Storage(folder or ".")
        if not storage.exists(name):
            raise UserError(f"no file at {url}")
        return storage, [name]
    storage = Storage(url)
    if not storage.exists():
        raise UserError(f"nothing at {url}")
    return storage, storage.list()


def check_datasets(checker: Checker, storage: Storage, files: list[str]) -> list[str]:
    """Check every finished dataset of ours among `files`; returns their folders, with a slash at the end, or empty."""
    roots = sorted(
        path[: -len(INDEX)] for path in files if path.rsplit("/", 1)[-1] == INDEX and _is_ours(storage, path)
    )
    for root in roots:
        checker.findings.prefix = root
        checker.dataset(storage.child(root.rstrip("/")), [path[len(root) :] for path in files if path.startswith(root)])
    checker.findings.prefix = ""
    return roots


def check_tars(checker: Checker, storage: Storage, files: list[str]) -> None:
    """Other people's tars, or a dataset of ours that was never finished."""
    findings = checker.findings
    if any("/meta/" in f"/{path}" and path.endswith(".parquet") for path in files):
        findings.error("unfinished", INDEX, "no index.json: the dataset is unfinished; see `limbeck status`")
    shards = [path for path in files if path.endswith(".tar")]
    for path in files:
        if path.endswith(tuple(COMPRESSED)):
            findings.warning("compressed_shard", path, "not checked: decompress it first")
    if not shards:
        findings.error("no_shards", ".", "there is no .tar here")
    classes = checker.classes(storage) if CLASSES_FILE in files else None
    keys = KeyHashes()
    sizes = {path: checker.shard(storage, path, keys, ours=False, classes=classes).samples for path in shards}
    for path in (path for path in files if path.rsplit("/", 1)[-1] == "sizes.json"):
        folder = path[: -len("sizes.json")]
        here = {name[len(folder) :]: n for name, n in sizes.items() if name.rpartition("/")[0] == folder.rstrip("/")}
        checker.sizes(storage, path, here)
    report_repeated(storage, keys, findings)


def _is_ours(storage: Storage, path: str) -> bool:
    """Other tools have an index.json too; ours has a schema version. A broken one is taken for ours."""
    try:
        document = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError):
        return True
    return isinstance(document, dict) and "schema_version" in document
