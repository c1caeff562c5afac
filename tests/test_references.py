"""What the docstrings of `synth` and `distill` cite can be looked up: papers and sections in docs/specs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "synth": sorted((ROOT / "synth").rglob("*.py")),
    "distill": sorted((ROOT / "distill").rglob("*.py")),
    "fidelity": sorted((ROOT / "tests" / "fidelity").rglob("*.py")),
}
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "specs").glob("*.md"))}
PAPER = re.compile(r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+) ((?:19|20)\d\d)")
SECTION = re.compile(r"`docs/specs/(\w+)\.md`(?:, ([a-z][a-z -]+\b))?")
#: What a reference may name besides a heading.
OTHER = ("numbers", "last section")


def text_of(path: Path) -> str:
    return " ".join(path.read_text().split())


@pytest.mark.parametrize("package", ["synth", "distill"])
def test_every_paper_is_listed_in_the_specs(package: str) -> None:
    cited = {paper for path in SOURCES[package] for paper in PAPER.findall(text_of(path))}
    listed = {paper for page in PAGES.values() for paper in PAPER.findall(" ".join(page.split()))}
    assert len(cited) > 5
    assert cited <= listed


@pytest.mark.parametrize("package", SOURCES)
def test_every_section_is_there(package: str) -> None:
    references = {found for path in SOURCES[package] for found in SECTION.findall(text_of(path))}
    assert references
    for page, words in references:
        headings = [line[3:].lower() for line in PAGES[page].split("\n") if line.startswith("## ")]
        parts = words.split(" and ") if words else []
        for part in parts:
            assert part.startswith(OTHER) or any(part.startswith(heading) for heading in headings), (page, part)
