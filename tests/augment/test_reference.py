"""docs/augment.md is made from the code: `python -m tests.augment.test_reference` writes it, this test keeps it true."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from augment import presets
from augment.operations import OPERATIONS
from augment.ranges import Range

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "augment.md"
HEAD = """# Operations and presets of `augment`

Made from the code by `python -m tests.augment.test_reference`. How a policy is written stands in `augment/policy.py`: a
preset's name, a list of operations, or groups of them (`one_of`, `choose`, `augmix`).

Where a setting is a range it takes a number, `[low, high]`, `{signed: size}` for a size with a tossed sign, `{around: size}`
for 1 ± size, or `{start: .., end: .., shape: linear | cosine | step, until: ..}`, which moves with training progress. Every
operation takes `p`, the share of samples it is applied to.
"""
FOOT = """
## What a sample gets

It follows from its key, the seed, the epoch, the view and its own size, never from the batch, its order or its size: pixels, boxes,
masks, points and refusals are the same to the bit alone and in company, on torch (float32, float64, uint8), cv2 and Kornia on a CPU;
`python -m tests.augment.company` tries every preset, every operation and random triples. On a CUDA device sums are taken in a
fixed order for the same reason; `python -m tests.gpu.test_augment` tries it there.

- **Keys** are strings or numbers, and a number is its value: `3`, `3.0`, `np.int64(3)` and a tensor's 3 are one sample, `"3"` is another.
  NaN, infinity, None and bytes are refused.
- **Boxes** are clipped to their image, and dropped when less than `min_visible` of them is left or a side is under `min_side`
  pixels, whether anything moved or not. What a frame on the way cut off does not come back, in pixels or targets, on any backend.
- **Refused for what it is**, whatever is drawn: a roll with boxes, augmix over geometry with boxes, masks or points, a crop or a
  kernel that does not fit the image.

## Which backend

`auto` takes cv2 for uint8 images on a CPU and torch for all else. Give it batches: drawing by key and planning cost some 100
microseconds a call on the host, for one image little less than for sixty-four. One image at a time, ours on cv2 takes 0.4 to 1.3
times the CPU time of albumentations from 224 px on (imagenet, simclr and detection); at 32 px 1.5 to 2.2 times, 0.1 ms more. A
loader that must augment small images one by one and needs no record of it is better served by albumentations; to batch them after
loading is faster than both. Single cheap operations (a flip alone) on single images are faster in anybody else's library. Figures:
`python -m tests.bench.augment`, with boxes `python -m tests.bench.augment --boxes`.
"""
KINDS = {"geometric": "Geometry", "colour": "Colours", "filter": "Neighbourhoods and regions"}


def shown(value: Any) -> str:
    """A default as params.yaml would write it."""
    if isinstance(value, Range):
        return f"{value.low:g}" if value.low == value.high else f"[{value.low:.3g}, {value.high:.3g}]"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{one:g}' for one in value)}]"
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "true", False: "false"}[value]
    return "{}" if value == {} else f"{value:g}" if isinstance(value, (int, float)) else str(value)


def sentence(docstring: str | None) -> str:
    """The docstring as one paragraph."""
    return " ".join((docstring or "").split())


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for family, title in KINDS.items():
        parts.append(f"## {title}\n")
        for name, operation in sorted(OPERATIONS.items()):
            if operation.family != family:
                continue
            settings = []
            for field in fields(operation):
                default = field.default_factory() if field.default_factory is not MISSING else field.default
                if field.name != "p" or default != Range(1.0, 1.0):
                    settings.append(f"`{field.name}`" if default is MISSING else f"`{field.name}: {shown(default)}`")
            parts.append(f"- {' '.join([f'**{name}**', *settings])}: {sentence(operation.__doc__)}")
        parts.append("")
    parts.append("## Presets\n")
    for name in presets.NAMES:
        made = getattr(presets, name)
        options = [f"`{one.name}: {shown(one.default)}`" for one in inspect.signature(made).parameters.values()]
        parts.append(f"- {' '.join([f'**{name}**', *options])}: {sentence(made.__doc__)}")
    return "\n".join(parts) + "\n" + FOOT


def test_the_reference_page_says_what_the_code_does() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.augment.test_reference`"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
