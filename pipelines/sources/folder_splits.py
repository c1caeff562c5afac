"""Which layout a folder has where its source does not say: class folders, or splits that hold class folders.

A wrong guess is a wrong dataset, so what could be both is refused with the words that decide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.errors import UserError
from pipelines.sources.params import FolderParams, Layout

#: What folders of a split are called, in lower case, and the split.
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NAMED = 5  # names in a message


def layout_of(params: FolderParams, files: Iterable[str], path: str) -> Layout:
    """The layout of a folder with these `files` (relative paths): as `params` say, else by its folders' names.

    `UserError` where folders called like splits stand beside others and could be classes. `classes` settles what it names.
    """
    if params.layout != "auto":
        return params.layout
    inside: dict[str, set[str]] = {}
    for file in files:
        top, *below = file.split("/")
        if below:
            inside.setdefault(top, set()).update(below[:-1][:1])
    splits = [name for name in sorted(inside) if name.lower() in SPLITS and name not in (params.classes or ())]
    others = [name for name in sorted(inside) if name not in splits]
    if not splits:
        return "class"
    if others:
        kinds = {SPLITS[name.lower()] for name in splits}
        if len(kinds) > 1 or any(inside[name].intersection(others) for name in splits):
            raise UserError(
                f"{path} has folders called like splits ({', '.join(splits[:_NAMED])}) beside others ({', '.join(others[:_NAMED])}): "
                "set layout: class if each is a class, layout: split_class if each is a split, or give the splits sources of their own"
            )
        return "class"
    if not all(inside[name] for name in splits):
        return "class"  # pictures right in a split have no class: refused as classes, by name
    classes = set().union(*(inside[name] for name in splits))
    if len(classes) == 1 and params.classes is None:
        raise UserError(
            f"{path} holds the splits {', '.join(splits[:_NAMED])}, and each has one folder, {classes.pop()}, which makes one class: set "
            "layout: split_class if that is meant, or layout: flat and one source per split for pictures without labels"
        )
    return "split_class"
