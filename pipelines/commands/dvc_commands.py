"""What a dvc.yaml runs of Limbeck: the commands of its stages, with the parameters and the data folder that they name."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.commands.asked import ALL
from pipelines.commands.dvc_wanted import Options, place_of
from pipelines.commands.yaml_text import YamlText
from pipelines.errors import LimbeckError, UserError
from pipelines.locations import is_url, local_path
from pipelines.stages import STAGES

DVC_FILE = Path("dvc.yaml")


def unseen(stage: str, data: str, paths: Iterable[str], file: Path = DVC_FILE) -> list[str]:
    """Which inputs of a stage dvc.yaml does not name; none where no dvc.yaml runs this stage into this data folder."""
    root = file.parent
    here = (stage, place_of(data, root))
    try:
        if (written := read_text(file)) is None:
            return []
        text = YamlText(written, str(file))
        bodies = []
        for name in text.keys("stages"):
            body = body_of(text, name)
            if here in {(ran, place_of(options.data, root)) for ran, options in commands(text, body)}:
                bodies.append(body)
    except LimbeckError:
        return []
    seen = [place_of(path, root) for body in bodies for path in text.names(*body, "deps")]
    local = [path for path in paths if not is_url(path) and local_path(path).exists()]
    return [path for path in local if bodies and not any(place_of(path, root).is_relative_to(other) for other in seen)]


def read_text(file: Path) -> str | None:
    """The text of a file; None where there is none."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def body_of(text: YamlText, stage: str) -> tuple[str, ...]:
    """Where a stage says what it does: with `foreach` under `do`."""
    return ("stages", stage, "do") if text.node("stages", stage, "do") is not None else ("stages", stage)


def own_command(text: YamlText, stage: str) -> Options | None:
    """The options of the one command of a stage that runs the stage of its own name; None for what is the user's work."""
    body = ("stages", stage)
    if text.node(*body, "do") is not None or len(text.keys(*body, "matrix")) > 1:
        return None
    if not isinstance(text.value(*body, "cmd"), str):
        return None
    ran = list(commands(text, body))
    return ran[0][1] if len(ran) == 1 and ran[0][0] == stage else None


def named_in(command: str) -> str | None:
    """STAGE or STAGE@ITEM as a command has it."""
    words = command.split()
    return next((words[place + 1] for place, word in enumerate(words[:-1]) if word == "run"), None)


def commands(text: YamlText, body: Sequence[str]) -> Iterator[tuple[str, Options]]:
    """(stage, options) for every stage that `limbeck run` runs in a stage's commands; all of them for `limbeck run all`."""
    value = text.value(*body, "cmd")
    for line in value if isinstance(value, list) else [value]:
        try:
            words = shlex.split(str(line))
        except ValueError:
            continue
        for place, word in enumerate(words[:-2]):
            if word.rsplit("/", 1)[-1] in ("limbeck", "pipelines") and words[place + 1] == "run":
                options = _options(words[place + 2 :])
                for name in words[place + 2 :]:
                    stage = name.partition("@")[0]
                    if stage != ALL and stage not in STAGES:
                        break
                    yield from ((one, options) for one in (STAGES if stage == ALL else [stage]))


def _options(words: Sequence[str]) -> Options:
    values: dict[str, list[str]] = {}
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            values.setdefault(name, []).append(value)
        elif word.startswith("--") and place + 1 < len(words):
            values.setdefault(word, []).append(words[place + 1])
        elif word in ("&&", ";", "||", "|"):
            break
    params, data = values.get("--params", [Options.params])[-1], values.get("--data", [Options.data])[-1]
    return Options(params, tuple(values.get("--set", [])), data)
