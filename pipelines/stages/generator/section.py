"""What the report shows of `generator`: what the models are and know, what the teacher takes their images for, and their samples."""

from __future__ import annotations

import base64

from pipelines.images.params import STORED_CAPS, ImageParams
from pipelines.images.probe import probe
from pipelines.images.process import process
from pipelines.outcomes import Outcome
from pipelines.report.blocks import Block, Folded, Picture, Sentences, Sheet, Table
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.section import Options, Section
from pipelines.report.words import UNKNOWN, grouped, listed, number, percent

#: A contact sheet of more pixels to a side, or of more bytes, is shown smaller.
SHEET_SIDE, SHEET_BYTES = 800, 1_000_000


def section(outputs: Outputs, options: Options) -> Section | None:
    """The generators; None while there are none."""
    if not outputs.done("generator"):
        return None
    sentences, models, recognition = knowledge(outputs), model_table(outputs), recognition_table(outputs)
    sentences += [recognition.note] if recognition is not None else []
    blocks: list[Block] = [Sentences(sentences)] if sentences else []
    blocks += [models] if models is not None else []
    folded: list[Block] = [*contact_sheets(outputs), *([recognition] if recognition is not None else [])]
    blocks += [Folded("Samples, and which of them the teacher recognises", folded)] if folded else []
    return Section("generator", "Generators", 55, blocks=blocks)


def knowledge(outputs: Outputs) -> list[str]:
    """What a family of small generators can show at all, and which classes of the job are not among it."""
    family = outputs.json("generator", "family.json")
    classes, nouns = ([str(one) for one in inner_list(family, name)] for name in ("classes", "nouns"))
    if not nouns:
        return []
    sentences = [f"These generators know {len(nouns)} things and show no other: {listed(nouns)}."]
    train = outputs.dataset("split", "train")
    strange = [name for name in train.classes if name not in {*classes, *nouns}] if train is not None else []
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        sentences.append(
            f"Not among them by name: {', '.join(strange[:3])}{more}. Asked for these they show one of their own; "
            "generator.source takes a pretrained model instead."
        )
    return sentences


def model_table(outputs: Outputs) -> Table | None:
    """The models by role."""
    models = []
    for role, form in outputs.json("generator", "generator.json").items():
        if isinstance(form, dict):
            size = form.get("native_size")
            native = "x".join(str(side) for side in size) if isinstance(size, list) else UNKNOWN
            model = str(form.get("model", UNKNOWN)).rstrip("/").rsplit("/", 1)[-1]  # no path of the machine
            models.append([role, str(form.get("family", UNKNOWN)), native, model, str(form.get("digest", ""))[:12]])
    return Table("Models", ("role", "family", "pixels", "model", "digest"), models, ()) if models else None


def recognition_table(outputs: Outputs) -> Table | None:
    """What the teacher takes generated images for."""
    metrics = outputs.json("generator", "metrics.json")
    top1, real, ratio = (number(metrics.get(name)) for name in ("top1", "teacher_test_top1", "ratio"))
    if top1 is None:
        return None
    images = grouped(number(metrics.get("images")))
    rows = [["all classes", images, percent(top1)]]
    for name, form in inner(metrics, "classes").items():
        if isinstance(form, dict):
            rows.append([name, grouped(number(form.get("images"))), percent(number(form.get("top1")))])
    note = f"The teacher gets {percent(top1)} of {images} generated images right"
    note += f" and {percent(real)} of real test images" if real is not None else ""
    note += f": {percent(ratio)} of that." if ratio is not None else "."
    return Table("Does the teacher recognise generated images?", ("class", "images", "top-1"), rows, note=note)


def contact_sheets(outputs: Outputs) -> list[Sheet]:
    """Samples of the generator, whole multiples of their size where they are small."""
    sheets = []
    for path in outputs.files("generator", "samples"):
        raw = outputs.raw("generator", path) if path.endswith(".png") else None
        if raw is None:
            continue
        size = probe(raw)
        if isinstance(size, Outcome):
            continue
        width, height, media = size.width, size.height, "image/png"
        if max(width, height) > SHEET_SIDE or len(raw) > SHEET_BYTES:
            smaller = process(
                raw, ImageParams(resize="longer", size=SHEET_SIDE, format="jpeg", quality=85, limits=STORED_CAPS)
            )
            if isinstance(smaller, Outcome):
                continue
            raw, width, height, media = smaller.data, smaller.width, smaller.height, "image/jpeg"
        scale = max(1, SHEET_SIDE // max(width, height)) if media == "image/png" else 1
        name = path.rsplit("/", 1)[-1].removesuffix(".png")
        uri = f"data:{media};base64,{base64.b64encode(raw).decode()}"
        sheets.append(Sheet(name, Picture(uri, f"samples of {name}", width * scale, height * scale, scale > 1)))
    return sheets
