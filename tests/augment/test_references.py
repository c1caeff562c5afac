"""What the docstrings of `augment` cite can be looked up: papers in docs/specs/augment.md, documents in this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = sorted((ROOT / "augment").rglob("*.py"))
PAPER = re.compile(r"[A-Z]\w+(?:, [A-Z]\w+)* (?:et al\.|and [A-Z]\w+) (?:19|20)\d\d")
DOCUMENT = re.compile(r"docs/[\w/]+\.md")


def papers(text: str) -> set[tuple[str, str]]:
    """First author and year of each paper."""
    return {(name.split()[0].rstrip(","), name[-4:]) for name in PAPER.findall(" ".join(text.split()))}


def test_every_paper_is_listed_once_and_nothing_else() -> None:
    page = (ROOT / "docs" / "specs" / "augment.md").read_text()
    text, listed = page.split("## Papers")
    cited = papers(text).union(*(papers(source.read_text()) for source in SOURCES))
    assert ("Hendrycks", "2020") in cited
    lines = [re.match(r"- (\w+).* (\d{4}): ", line) for line in listed.split("\n") if line]
    assert sorted(line.groups() for line in lines if line) == sorted(cited)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_document_is_there(source: Path) -> None:
    missing = [name for name in DOCUMENT.findall(source.read_text()) if not (ROOT / name).exists()]
    assert not missing
