"""`dataset.json`: the description of a dataset as Croissant 1.0 JSON-LD, so that catalogues and loaders can read it.

Shards are file objects with their hashes, the images inside them a file set, and classes a small record set. Specified
at http://mlcommons.org/croissant/1.0. Dates are not invented: the same inputs must give the same file.
"""

from __future__ import annotations

from typing import Any

from pipelines.shards.index import Index
from pipelines.shards.sample import IMAGE_EXTENSIONS

#: Keys of `Index.extra` that schema.org has a place for, with what is said when they are absent.
DESCRIPTION_DEFAULTS = {
    "name": "limbeck-dataset",
    "description": "Images in WebDataset shards, written by Limbeck.",
    "license": "unknown",
    "url": "index.json",
    "version": "1.0.0",
}
DESCRIPTION_OPTIONAL = ("creator", "citeAs", "datePublished", "keywords")

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(index: Index, classes: list[str]) -> dict[str, Any]:
    """The document for a dataset; texts such as `name`, `description` and `license` come from `index.extra`."""
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        **DESCRIPTION_DEFAULTS,
    }
    for name in (*DESCRIPTION_DEFAULTS, *DESCRIPTION_OPTIONAL):
        if name in index.extra:
            document[name] = index.extra[name]
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": shard.name,
            "name": shard.path.rsplit("/", 1)[-1],
            "contentUrl": shard.path,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in index.shards
    ]
    document["distribution"] = shards
    document["recordSet"] = []
    if shards:
        document["distribution"] = [*shards, _file_set("images", index, [f"*.{ext}" for ext in IMAGE_EXTENSIONS])]
        document["recordSet"] = [_samples()]
    if classes:
        document["recordSet"] = [*document["recordSet"], _classes(classes)]
    return document


def _file_set(name: str, index: Index, patterns: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": [{"@id": shard.name} for shard in index.shards],
        "encodingFormat": "image/*",
        "includes": patterns,
    }


def _samples() -> dict[str, Any]:
    def field(name: str, kind: str, extract: str) -> dict[str, Any]:
        return {
            "@type": "cr:Field",
            "@id": f"samples/{name}",
            "name": name,
            "dataType": kind,
            "source": {"fileSet": {"@id": "images"}, "extract": {"fileProperty": extract}},
        }

    fields = [field("filename", "sc:Text", "filename"), field("image", "sc:ImageObject", "content")]
    return {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": fields}


def _classes(classes: list[str]) -> dict[str, Any]:
    def field(name: str, kind: str) -> dict[str, Any]:
        return {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "dataType": kind}

    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [field("label", "sc:Integer"), field("name", "sc:Text")],
        "data": [{"classes/label": label, "classes/name": name} for label, name in enumerate(classes)],
    }
