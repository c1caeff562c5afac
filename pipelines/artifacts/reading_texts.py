"""Reading texts as the models of the `generator` stage do. Loads tokenizers and configurations, and no package that makes images.

A stage asks before it begins, in the process that drives it: importing diffusers there would take seconds and be used for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from synth.datadream.texts import Reader
from synth.quiet import quiet_loading

#: Tokens that pipelines hand to a text encoder without a limit of its own, such as T5.
LONGEST = 512


def clip_reader(job: Job[Any]) -> Reader:
    """What the CLIP of the `generator` stage reads of a text. Loads no weights."""
    from transformers import AutoConfig, AutoTokenizer

    where, revision = generator_model(job, "clip"), generator_of(job, "clip").revision or "main"
    with quiet_loading(), model_loading("CLIP", where):
        config: Any = AutoConfig.from_pretrained(where, revision=revision)
        return Reader.of_clip(AutoTokenizer.from_pretrained(where, revision=revision), config.text_config)


def text_readers(job: Job[Any]) -> list[Reader]:
    """What the text encoders of the text-to-image model read of a prompt, whose whole sequence they use. Loads no weights."""
    from transformers import AutoTokenizer
    from transformers.utils.hub import cached_file

    where, revision = generator_model(job, "text"), generator_of(job, "text").revision or "main"
    with quiet_loading(), model_loading("text-to-image model", where):
        path = cached_file(where, "model_index.json", revision=revision)
        assert path is not None  # what is missing is an error
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        names = [name for name, part in index.items() if name.startswith("tokenizer") and part[0] is not None]
        tokenizers = [AutoTokenizer.from_pretrained(where, subfolder=name, revision=revision) for name in names]
    return [Reader(tokenizer, min(tokenizer.model_max_length, LONGEST)) for tokenizer in tokenizers]


@contextmanager
def model_loading(what: str, where: str) -> Iterator[None]:
    """Make a model of the generator stage that cannot be loaded the user's error, with the reason in one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        raise UserError(f"the {what} of the generator stage cannot be loaded from {where}: {problem}") from None
