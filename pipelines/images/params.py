"""What a user can choose about images. Nothing here touches pixels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Section

Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]
ResizeMode = Literal["none", "shorter", "longer", "exact", "center_crop", "pad"]


class ImageLimits(Section):
    """What is refused before it can do harm. All but time are read from the header, before anything is decoded.

    - `max_bytes` of the encoded file; `max_pixels` = width x height; `max_aspect` = longer / shorter side; `min_side` in
      pixels.
    - `max_scan_pixels` = pixels x scans of a JPEG, which bounds the work of a small file that repeats its scans; more
      than 100 scans are refused whatever their size.
    - `max_memory` in bytes, for all images that one worker has in hand at a time: an image whose format, size and
      resizing take more is refused, and others wait for one another. What a decoder takes beyond what its header said
      ends it, where decoding is in a process of its own (`ingest`).
    - `max_seconds` of CPU time for one image; a machine that is busy, stopped or slow for other reasons loses none. `ingest`
      ends a decoder that takes longer. Elsewhere it is looked at between the steps.

    An image over a limit is `failed` and `policy`: how much it takes is a property of the file, and trying it again would
    take as much. Formats that Pillow decodes (see `decode`) are also held to Pillow's own ceiling of about 179 million
    pixels.
    """

    max_bytes: int = Field(default=64 * 2**20, ge=1)
    max_pixels: int = Field(default=80_000_000, ge=1)
    max_scan_pixels: int = Field(default=1_000_000_000, ge=1)
    max_aspect: float = Field(default=20.0, ge=1.0)
    min_side: int = Field(default=8, ge=1)
    max_memory: int = Field(default=2**30, ge=2**20)
    max_seconds: float = Field(default=60.0, gt=0)


#: What is refused even where no user's policy applies (`lint` of other people's tars): only what could harm the machine, no
#: shape and no size.
HARD_CAPS = ImageLimits(max_bytes=2**28, max_aspect=1e6, min_side=1)
#: Of images that are stored in a dataset of ours: what to keep was decided when they were ingested, by whatever limits. What is
#: left is what no decoder here takes, and a bound of memory.
STORED_CAPS = ImageLimits(
    max_bytes=2**33, max_pixels=2**30, max_scan_pixels=2**37, max_aspect=1e6, min_side=1, max_memory=2**34
)


class ImageParams(Section):
    """How every image of a run is treated.

    `resize` with `size` (pixels):

    - `none`: as it is; - `shorter` / `longer`: that side becomes `size`, the aspect stays;
    - `exact`: `size` x `size`, aspect ignored; - `center_crop`: shorter side to `size`, then the central square;
    - `pad`: longer side to `size`, centred on a square of `pad_value`.

    Nothing is enlarged unless `upscale`: `shorter`, `longer` and `pad` then leave a small image at its own size, and
    `exact` and `center_crop`, which promise a size, drop it as `too_small`.

    `interpolation` is the kernel when shrinking, both antialiased: `area` (the mean of what a pixel covers, fast) or
    `lanczos` (Pillow, sharper, several times slower). Growing uses OpenCV's bicubic with `area`, else Lanczos.

    `format` `keep` stores the original bytes (with whatever metadata they carry) if nothing had to be changed, the same
    picture without the damaged part where readers may stumble over what is wrong beside the pixels (see `notes`), else
    encodes in the source's format where that is JPEG, PNG or WebP, else as PNG. `quality` (1-100) is for JPEG and WebP,
    `subsampling` for JPEG. `animated` images give their first frame or are dropped. Transparent parts show
    `alpha_background`.
    """

    resize: ResizeMode = "none"
    size: int | None = Field(default=None, ge=1, le=16_384)
    upscale: bool = False
    interpolation: Literal["area", "lanczos"] = "area"
    format: Literal["jpeg", "png", "webp", "keep"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    subsampling: Literal["444", "422", "420"] = "444"
    animated: Literal["first", "drop"] = "first"
    alpha_background: Colour = (255, 255, 255)
    pad_value: Colour = (0, 0, 0)
    limits: ImageLimits = ImageLimits()

    @model_validator(mode="after")
    def _size_goes_with_resize(self) -> Self:
        if self.resize == "none" and self.size is not None:
            raise ValueError("size is given but resize is none; choose a resize mode or remove size")
        if self.resize != "none" and self.size is None:
            raise ValueError(f"resize {self.resize} needs a size in pixels")
        return self
