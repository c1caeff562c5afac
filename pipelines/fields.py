"""Types of parameters that several stages share, and the refusal of options that would be ignored."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from augment.presets import NAMES as PRESETS
from augment.values import WIDEST
from pipelines.config import ALTERNATIVE

_Mean = Annotated[float, Field(ge=-WIDEST, le=WIDEST, allow_inf_nan=False)]
_Spread = Annotated[float, Field(ge=1 / WIDEST, le=WIDEST, allow_inf_nan=False)]
#: A number for each channel; and one that images are divided by.
Channels = tuple[_Mean, _Mean, _Mean]
Spreads = tuple[_Spread, _Spread, _Spread]


def _numbers_or_auto(value: Any) -> str:
    return f"{ALTERNATIVE}auto" if isinstance(value, str) else f"{ALTERNATIVE}numbers"


_Auto = Annotated[Literal["auto"], Tag(f"{ALTERNATIVE}auto")]
#: The same, or `auto` for what the images themselves have.
ChannelsOrAuto = Annotated[Annotated[Channels, Tag(f"{ALTERNATIVE}numbers")] | _Auto, Discriminator(_numbers_or_auto)]
SpreadsOrAuto = Annotated[Annotated[Spreads, Tag(f"{ALTERNATIVE}numbers")] | _Auto, Discriminator(_numbers_or_auto)]


def text_keys(value: Any) -> Any:
    """YAML reads a bare 0 as a number and a bare no as a switch: say how the name is written."""
    for key in value if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is no text to YAML; write class names in quotes, such as '0' or 'no'")
    return value


def _not_blank(names: dict[str, str]) -> dict[str, str]:
    if blank := [name for name, words in names.items() if not words.strip()]:
        raise ValueError(
            f"class {blank[0]!r} is called by an empty text; give it words, or leave it out to use its name"
        )
    return names


#: Class name -> what prompts call it.
Names = Annotated[dict[str, str], BeforeValidator(text_keys), AfterValidator(_not_blank)]


#: The one thing that a caption can say of its image.
LABEL_NAME = "label_name"


def _captions_label(template: str) -> str:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; a brace itself is written twice") from None
    for _, name, form, conversion in parts:
        if name is not None and (name, form, conversion) != (LABEL_NAME, "", None):
            raise ValueError(f"a caption knows {{{LABEL_NAME}}} and no {{{name}}}; a brace itself is written twice")
    if not template.strip():
        raise ValueError("a caption of no words; leave it out for none")
    return template


#: What images of a class are captioned: plain text in which `{label_name}` stands for the class.
CaptionTemplate = Annotated[str, AfterValidator(_captions_label)]


def caption_of(template: str, label_name: str) -> str:
    """The caption of an image of this class."""
    return template.format_map({LABEL_NAME: label_name})


#: A policy of `augment`, which its reader checks; editors are told the presets.
PolicySpec = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": [*PRESETS, None]}, {"type": "array"}, {"type": "object"}]})
]

#: Options of a training that mean nothing with hard labels.
SOFT_ONLY = dict.fromkeys(("soft_loss", "temperature", "t_squared"), "its labels are hard")
#: And with soft ones.
HARD_ONLY = {"label_smoothing": "soft labels are not smoothed"} | dict.fromkeys(
    ("loss", "tau"), "it is the loss of hard labels, and these are soft"
)


def refuse_ignored(raw: Any, section: str, ignored: Mapping[str, str]) -> None:
    """`ValueError` for an option under `section` (with dots) of a raw parameter mapping that would not be used, with the reason: a
    reader would take it for what was done."""
    asked = raw
    for name in section.split("."):
        asked = asked.get(name) if isinstance(asked, Mapping) else None
    for name in asked if isinstance(asked, Mapping) else ():
        if name in ignored:
            raise ValueError(f"{section}.{name} would be ignored: {ignored[name]}; leave it out")
