"""docs/params.md is made from the models: `python -m tests.commands.test_params_page` writes it, this test keeps it true."""

from __future__ import annotations

from pathlib import Path

from pipelines.commands.explain import groups, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "params.md"


def test_the_page_says_what_the_models_do() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.commands.test_params_page`"


def test_every_key_of_every_section_is_on_it() -> None:
    text = PAGE.read_text()
    for group in (inner for section in groups().values() for inner in section.walk()):
        if "composed.base." not in group.path:
            assert f"## {group.path}\n" in text
        assert all(f"| `{one.name}` |" in text for one in group.parameters), group.path


def test_every_key_says_what_it_is() -> None:
    for group in (inner for section in groups().values() for inner in section.walk()):
        silent = [one.name for one in group.parameters if not (one.about or one.sections or one.name == "type")]
        assert not silent, (
            f"describe {silent} in Field, or in a sentence of {group.model.__name__} with their names in backticks"
        )


if __name__ == "__main__":
    PAGE.write_text(page())
