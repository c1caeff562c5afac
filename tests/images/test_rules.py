"""Each stated rule of the safe image path, on images made here."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms
from pydantic import ValidationError

from pipelines.images import ImageLimits, ImageParams, Processed, decode_rgb, process
from pipelines.images.geometry import turn
from pipelines.images.process import pixel_sha256
from pipelines.outcomes import Outcome
from tests.images.making import closeness, encoded, exif, picture, png_16, png_bomb, unturned

AS_PNG = ImageParams(format="png")


def pixels_of(result: Processed | Outcome) -> np.ndarray:
    """The stored pixels of a processed image, read by Pillow and not by us."""
    assert isinstance(result, Processed), result
    return np.asarray(Image.open(io.BytesIO(result.data)).convert("RGB"))


def reason(result: object) -> tuple[str, str, str | None]:
    assert isinstance(result, Outcome), result
    return result.status, result.reason, result.error_class


def decoded(raw: bytes) -> np.ndarray:
    pixels = decode_rgb(raw)
    assert isinstance(pixels, np.ndarray), pixels
    return pixels


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    upright = picture()
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    raw = encoded(unturned(upright, orientation), kind, exif=exif(orientation), **options)
    result = process(raw, AS_PNG)
    assert closeness(pixels_of(result), upright) < 2
    assert isinstance(result, Processed)
    assert (result.src_height, result.src_width) == upright.shape[:2]


def test_turning_agrees_with_pillow_for_every_orientation() -> None:
    stored = picture(31, 20)
    turns = Image.Transpose
    methods = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    methods += [turns.TRANSPOSE, turns.ROTATE_270, turns.TRANSVERSE, turns.ROTATE_90]
    for orientation, method in enumerate(methods, start=1):
        expected = stored if method is None else np.asarray(Image.fromarray(stored).transpose(method))
        np.testing.assert_array_equal(turn(stored, orientation), expected)


def test_an_orientation_that_is_no_orientation_is_upright() -> None:
    raw = encoded(picture(), "JPEG", exif=exif(9))
    result = process(raw, AS_PNG)
    assert isinstance(result, Processed)
    assert result.orientation == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_what_we_decode_is_what_pillow_decodes(mode: str, kind: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(image, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    np.testing.assert_array_equal(decoded(raw), expected)


@pytest.mark.parametrize("kind", ["PPM", "AVIF", "JPEG"])
def test_the_remaining_formats_come_close_to_the_original(kind: str) -> None:
    assert closeness(decoded(encoded(picture(), kind, quality=95)), picture()) < 3


def test_grey_becomes_three_equal_channels() -> None:
    for raw in (encoded(picture()[:, :, 0], "JPEG"), b"P5\n90 60\n255\n" + picture()[:, :, 0].tobytes()):
        pixels = decoded(raw)
        assert pixels.shape == (60, 90, 3)
        assert (pixels[:, :, 0] == pixels[:, :, 1]).all()
        assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_cmyk_with_adobes_inversion_shows_the_original_colours() -> None:
    raw = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=98)
    assert closeness(decoded(raw), picture()) < 4
    result = process(raw, ImageParams(format="keep"))
    assert isinstance(result, Processed)
    assert result.data != raw, "CMYK bytes must not be kept: readers show them differently"


def test_sixteen_bits_are_divided_by_257_and_rounded() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.round(ramp / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded(png_16(ramp))[:, :, 1], expected)
    colour = np.stack([ramp, ramp[::-1], ramp.T], axis=2)
    np.testing.assert_array_equal(decoded(png_16(colour)), np.round(colour / 257).astype(np.uint8))
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(ramp), "TIFF"))[:, :, 0], expected)
    pgm = b"P5\n64 64\n65535\n" + ramp.astype(">u2").tobytes()
    np.testing.assert_array_equal(decoded(pgm)[:, :, 0], expected)


def test_a_pgm_with_another_largest_value_is_stretched_to_255() -> None:
    raw = b"P5\n16 16\n15\n" + bytes([15] * 256)
    assert (decoded(raw) == 255).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_range_are_refused(mode: str) -> None:
    raw = encoded(Image.fromarray(picture()).convert("L").convert(mode), "TIFF")
    assert reason(process(raw, AS_PNG)) == ("failed", "unsupported_mode", "permanent")


def test_transparent_parts_show_the_background() -> None:
    alpha = np.zeros((60, 90), np.uint8)
    alpha[:, 30:60], alpha[:, 60:] = 128, 255
    image = Image.fromarray(np.dstack([picture(), alpha]))
    red = ImageParams(format="png", alpha_background=(255, 0, 0))
    deep = png_16(np.asarray(image).astype(np.uint16) * 257)
    for raw in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True, exact=True), deep):
        shown = pixels_of(process(raw, red)).astype(int)
        assert (shown[:, :30] == (255, 0, 0)).all()
        np.testing.assert_array_equal(shown[:, 60:], picture()[:, 60:])
        half = (picture()[:, 30:60] * 128.0 + np.array([255, 0, 0]) * 127) / 255
        assert np.abs(shown[:, 30:60] - half).max() <= 0.5


def test_grey_with_alpha_and_palette_with_a_transparent_entry_show_the_background() -> None:
    grey = Image.fromarray(np.dstack([picture()[:, :, 0], np.zeros((60, 90), np.uint8)]), "LA")
    palette = Image.fromarray(np.zeros((60, 90), np.uint8), "P")
    palette.putpalette([9, 9, 9])
    for raw in (encoded(grey, "PNG"), encoded(palette, "PNG", transparency=0)):
        assert (pixels_of(process(raw, ImageParams(format="png", alpha_background=(0, 0, 255)))) == (0, 0, 255)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_profile_that_is_not_srgb_moves_the_colours(kind: str) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = _swap_red_and_green(lab)
    options = {"lossless": True} if kind == "WEBP" else ({"quality": 100, "subsampling": 0} if kind == "JPEG" else {})
    turned = pixels_of(process(encoded(picture(), kind, icc_profile=swapped, **options), AS_PNG))
    assert closeness(turned, picture()[:, :, [1, 0, 2]]) < 3


def test_srgb_and_broken_profiles_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decoded(encoded(picture(), "JPEG"))
    for profile in (srgb, srgb[:100], b"nonsense" * 40):
        raw = encoded(picture(), "JPEG", icc_profile=profile)
        np.testing.assert_array_equal(decoded(raw), plain)
        result = process(raw, ImageParams(format="keep"))
        assert isinstance(result, Processed)
        assert result.data == raw


def _swap_red_and_green(profile: bytes) -> bytes:
    """The same profile with the primaries of red and green exchanged."""
    return profile.replace(b"rXYZ", b"tmpZ").replace(b"gXYZ", b"rXYZ").replace(b"tmpZ", b"gXYZ")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame_or_are_dropped(kind: str) -> None:
    frames = [Image.fromarray(picture(seed=seed)).quantize(64).convert("RGB") for seed in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert closeness(pixels_of(process(raw, AS_PNG)), np.asarray(frames[0])) < 3
    assert reason(process(raw, ImageParams(animated="drop"))) == ("dropped", "animated", "policy")
    result = process(raw, ImageParams(format="keep"))
    assert isinstance(result, Processed)
    assert result.data != raw, "an animation is not the still that we store"


def test_a_still_gif_is_no_animation() -> None:
    raw = encoded(Image.fromarray(picture()).quantize(8), "GIF")
    assert isinstance(process(raw, ImageParams(animated="drop")), Processed)


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    bomb = png_bomb()
    assert len(bomb) < 1_000_000
    assert reason(process(bomb, ImageParams())) == ("failed", "too_many_pixels", "policy")
    # Without a single row of pixels the answer is the same: they were never looked at.
    assert reason(process(bomb[:64], ImageParams())) == ("failed", "too_many_pixels", "policy")


@pytest.mark.parametrize(
    "raw",
    [
        b"GIF89a" + b"\xff\xff\xff\xff\x00\x00\x00",
        b"P6\n99999 99999\n255\n",
        b"BM" + bytes(12) + b"\x28\0\0\0" + b"\x00\x00\x01\x00" * 2,
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0\0\0\0" + b"\xff\x3f\x00" * 2,
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xda\x00\x02",
    ],
)
def test_huge_claims_in_any_format_are_refused_from_the_header(raw: bytes) -> None:
    assert reason(process(raw, ImageParams())) == ("failed", "too_many_pixels", "policy")


def test_a_jpeg_that_repeats_its_scans_is_refused() -> None:
    raw = encoded(picture(), "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    limits = ImageLimits(max_scan_pixels=60 * 90 * 50)
    assert isinstance(process(raw, ImageParams(limits=limits)), Processed)
    swollen = raw[:-2] + raw[last:-2] * 100 + b"\xff\xd9"
    assert reason(process(swollen, ImageParams(limits=limits))) == ("failed", "too_many_scans", "policy")


def test_limits_on_bytes_side_aspect_and_time() -> None:
    raw = encoded(picture(40, 200), "PNG")

    def outcome(**limits: float) -> tuple[str, str, str | None]:
        return reason(process(raw, ImageParams(limits=ImageLimits(**limits))))

    assert outcome(max_bytes=10) == ("failed", "too_many_bytes", "policy")
    assert outcome(min_side=41) == ("dropped", "too_small", "policy")
    assert outcome(max_aspect=4.9) == ("dropped", "extreme_aspect", "policy")
    assert outcome(max_seconds=1e-9) == ("failed", "too_slow", "policy")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "empty"),
        (b"hello, this is text", "unsupported_format"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"\xff\xd8\xff\xe0\x00", "truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0", "truncated"),
        (b"P5\nx y\n", "bad_header"),
        (b"\xff\xd8\xff\xd9", "bad_header"),
        (b"II*\0" + bytes(4), "bad_header"),
    ],
)
def test_bytes_that_are_no_image_say_why(raw: bytes, expected: str) -> None:
    assert reason(process(raw, ImageParams())) == ("failed", expected, "permanent")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_cut_file_is_truncated_and_never_half_shown(kind: str) -> None:
    raw = encoded(picture(), kind)
    for keep in (0.35, 0.6, 0.9):
        outcome = process(raw[: int(len(raw) * keep)], ImageParams())
        assert isinstance(outcome, Outcome), f"{kind} of {keep:.0%} was accepted"
        assert outcome.reason in ("truncated", "bad_header")
    if kind in ("JPEG", "PNG", "PPM", "WEBP"):
        assert outcome.reason == "truncated"


def test_damaged_jpeg_data_is_corrupt_though_a_picture_could_be_shown() -> None:
    raw = bytearray(encoded(picture(), "JPEG", quality=95))
    start = raw.index(b"\xff\xda") + 200
    raw[start : start + 40] = b"\x5a" * 40
    assert Image.open(io.BytesIO(bytes(raw))).convert("RGB").size == (90, 60)
    assert reason(process(bytes(raw), ImageParams())) == ("failed", "corrupt", "permanent")


def test_names_do_not_matter_and_formats_are_reported() -> None:
    kinds = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "PPM": "pnm", "TIFF": "tiff"}
    for kind, name in kinds.items():
        result = process(encoded(picture(), kind), ImageParams())
        assert isinstance(result, Processed)
        assert (result.src_format, result.ext) == (name, "jpg")


# Sizes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (400, 600)),
        ({"resize": "shorter", "size": 100}, (100, 150)),
        ({"resize": "longer", "size": 150}, (100, 150)),
        ({"resize": "exact", "size": 64}, (64, 64)),
        ({"resize": "center_crop", "size": 64}, (64, 64)),
        ({"resize": "pad", "size": 64}, (64, 64)),
        ({"resize": "shorter", "size": 500}, (400, 600)),
        ({"resize": "longer", "size": 700}, (400, 600)),
        ({"resize": "pad", "size": 700}, (700, 700)),
        ({"resize": "shorter", "size": 500, "upscale": True}, (500, 750)),
        ({"resize": "longer", "size": 900, "upscale": True}, (600, 900)),
        ({"resize": "exact", "size": 500, "upscale": True}, (500, 500)),
        ({"resize": "center_crop", "size": 500, "upscale": True}, (500, 500)),
    ],
)
@pytest.mark.parametrize("interpolation", ["area", "lanczos"])
def test_resize_modes_give_the_stated_size(params: dict, expected: tuple[int, int], interpolation: str) -> None:
    raw = encoded(picture(400, 600), "JPEG")
    result = process(raw, ImageParams(interpolation=interpolation, **params))
    assert isinstance(result, Processed)
    assert (result.height, result.width) == expected == pixels_of(result).shape[:2]
    assert (result.src_height, result.src_width) == (400, 600)


@pytest.mark.parametrize("mode", ["exact", "center_crop"])
def test_a_mode_that_promises_a_size_drops_what_is_too_small(mode: str) -> None:
    outcome = process(encoded(picture(60, 90), "PNG"), ImageParams(resize=mode, size=64))
    assert reason(outcome) == ("dropped", "too_small", "policy")


def test_padding_is_centred_and_has_the_stated_value() -> None:
    raw = b"P5\n28 28\n255\n" + bytes([200] * 784)
    stored = pixels_of(process(raw, ImageParams(resize="pad", size=32, format="png", pad_value=(1, 2, 3)))).copy()
    assert (stored[2:30, 2:30] == 200).all()
    stored[2:30, 2:30] = (1, 2, 3)
    assert (stored == (1, 2, 3)).all()


def test_the_central_square_is_cropped() -> None:
    wide = picture(60, 90)
    stored = pixels_of(process(encoded(wide, "PNG"), ImageParams(resize="center_crop", size=60, format="png")))
    np.testing.assert_array_equal(stored, wide[:, 15:75])


def test_shrinking_averages_and_does_not_alias() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    means = noise.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    for interpolation, bound in (("area", 0.5), ("lanczos", 12)):
        params = ImageParams(resize="exact", size=64, format="png", interpolation=interpolation)
        shrunk = pixels_of(process(encoded(noise, "PNG"), params))
        assert np.abs(shrunk - means).mean() <= bound


@pytest.mark.parametrize(("side", "factor"), [(100, 8), (101, 4), (200, 4), (201, 2), (401, 1)])
def test_a_jpeg_is_decoded_at_the_largest_scale_that_keeps_the_target(side: int, factor: int, monkeypatch) -> None:
    seen = []
    original = simplejpeg.decode_jpeg

    def watch(*arguments: object, **options: object) -> np.ndarray:
        pixels = original(*arguments, **options)
        seen.append(pixels.shape[0])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watch)
    process(encoded(picture(800, 1000), "JPEG"), ImageParams(resize="shorter", size=side))
    assert seen == [800 // factor]


def test_scaled_decoding_looks_like_full_decoding() -> None:
    big = picture(800, 1200)
    for orientation in (1, 6):
        raw = encoded(unturned(big, orientation), "JPEG", quality=95, exif=exif(orientation))
        stored = pixels_of(process(raw, ImageParams(resize="shorter", size=90, format="png")))
        full = cv2.resize(decoded(raw), (135, 90), interpolation=cv2.INTER_AREA)
        assert closeness(stored, full) < 1


# What is stored ------------------------------------------------------------


def test_keep_keeps_only_untouched_bytes() -> None:
    keep = ImageParams(format="keep")
    for kind, ext in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        raw = encoded(picture(), kind)
        result = process(raw, keep)
        assert isinstance(result, Processed)
        assert (result.data, result.ext) == (raw, ext)
        np.testing.assert_array_equal(decoded(result.data), decoded(raw))
        small = process(raw, ImageParams(format="keep", resize="shorter", size=30))
        assert isinstance(small, Processed)
        assert small.ext == ext
        assert small.data != raw
    turned = encoded(picture(), "JPEG", exif=exif(3))
    result = process(turned, keep)
    assert isinstance(result, Processed)
    assert result.data != turned
    result = process(encoded(picture(), "BMP"), keep)
    assert isinstance(result, Processed)
    assert result.ext == "png"


def test_stored_formats_quality_and_subsampling_are_as_asked() -> None:
    raw = encoded(picture(200, 300), "PNG")
    for sampling in ("444", "422", "420"):
        result = process(raw, ImageParams(subsampling=sampling))
        assert isinstance(result, Processed)
        assert simplejpeg.decode_jpeg_header(result.data)[3] == sampling
    sizes = [len(process(raw, ImageParams(format=kind, quality=q)).data) for kind in ("jpeg", "webp") for q in (30, 95)]
    assert sizes[0] < sizes[1]
    assert sizes[2] < sizes[3]
    assert closeness(pixels_of(process(raw, ImageParams(format="webp"))), picture(200, 300)) < 4


def test_the_same_bytes_in_give_the_same_bytes_out() -> None:
    raw = encoded(picture(300, 200), "JPEG")
    for kind in ("jpeg", "png", "webp"):
        params = ImageParams(resize="pad", size=64, format=kind)
        assert process(raw, params) == process(raw, params)


def test_the_pixel_hash_is_of_shape_and_stored_pixels() -> None:
    raw = encoded(picture(), "BMP")
    first, second = process(raw, AS_PNG), process(encoded(picture(), "PNG"), AS_PNG)
    assert isinstance(first, Processed)
    assert isinstance(second, Processed)
    assert first.pixel_sha256 == second.pixel_sha256 == pixel_sha256(np.ascontiguousarray(pixels_of(first)))
    flat = np.zeros((4, 6, 3), np.uint8)
    assert pixel_sha256(flat) != pixel_sha256(flat.reshape(6, 4, 3))


def test_limits_and_sizes_that_make_no_sense_are_refused() -> None:
    for wrong in ({"resize": "pad"}, {"size": 3}, {"quality": 0}, {"colour": 1}, {"pad_value": (0, 0, 256)}):
        with pytest.raises(ValidationError):
            ImageParams(**wrong)
