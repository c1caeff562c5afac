"""`limbeck lint`: datasets and tars by `pipelines.shards.lint`, stages by their seals, and what one part of a stage says of another."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.artifacts.datasets import PARTS
from pipelines.artifacts.few_shot import FEW_SHOT
from pipelines.errors import UserError
from pipelines.runtime.finished import Finished
from pipelines.runtime.lint_stage import check_stage, stage_roots
from pipelines.shards.dataset import Dataset
from pipelines.shards.findings import Findings, LintReport
from pipelines.shards.lint import check_datasets, check_tars, found_at
from pipelines.shards.lint_dataset import Checker
from pipelines.shards.lint_shard import Decode

__all__ = ["lint_all"]


def lint_all(url: str, decode: Decode | None = None) -> LintReport:
    """Check whatever lies at `url`: anyone's tars, datasets, outputs of stages, or a whole data folder."""
    storage, files = found_at(url)
    checker = Checker(Findings(), decode)
    datasets = check_datasets(checker, storage, files)
    stages = stage_roots(files)
    for root in stages:
        checker.findings.prefix = root
        inside = [path[len(root) :] for path in files if path.startswith(root)]
        stage = check_stage(storage.child(root.rstrip("/")), inside, checker.findings)
        if stage is not None and FEW_SHOT in stage.sealed:
            _check_split(stage, checker.findings)
    checker.findings.prefix = ""
    if not datasets and not stages:
        check_tars(checker, storage, files)
    return checker.report()


def _check_split(split: Finished, findings: Findings) -> None:
    """Every sample of the input is in one part at the most, the account adds up over all parts, shots come from train."""
    try:
        parts = {part: dataset for part in PARTS if (dataset := split.dataset(part)) is not None}
        keys = {part: set(dataset.rows(["key"])["key"].to_pylist()) for part, dataset in parts.items()}
        manifest = split.json(FEW_SHOT)
        chosen = [key for classes in manifest["seeds"].values() for listed in classes.values() for key in listed]
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return  # it has a finding of its own
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = keys.get(first, set()) & keys.get(second, set())
        for key in sorted(shared):
            findings.error("key_in_two_parts", second, f"also in {first}", key)
    for key in _without(chosen, keys.get("train", set())):
        findings.error("few_shot_lies", FEW_SHOT, "it is not in train", key)
    _check_accounts(parts, findings)


def _check_accounts(parts: dict[str, Dataset], findings: Findings) -> None:
    for name, dataset in parts.items():
        for other, rows in ((other, parts[other].account.rows) for other in parts if other != name):
            told = dataset.account.passed_over.get(f"in_{other}", 0)
            if told != rows:
                findings.error(
                    "account_parts", f"{name}/index.json", f"it passed over {told} in {other}, which has {rows}"
                )


def _without(keys: Iterable[str], known: set[str]) -> list[str]:
    return sorted({key for key in keys if key not in known})
