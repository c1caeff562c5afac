"""A YAML file that people edit, changed in its text: only the values that are to be others, in the style that they have.

Comments, order and layout of everything else stay. After every edit the text is parsed again, so that places are never stale.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.errors import UserError

#: An item of a list: a scalar, or one with options, such as an output in dvc.yaml.
Item = str | Mapping[str, Any]


class YamlText:
    """The text of a file called `name`, and edits of what stands under a path of keys. `UserError` where it is no mapping."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self._parse()

    def _parse(self) -> None:
        try:
            self._top = yaml.compose(self.text, yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise UserError(f"{self.name} is not valid YAML: {' '.join(str(error).split())}") from None

    def _edit(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]
        self._parse()

    def node(self, *path: str) -> yaml.Node | None:
        """The node under a path of keys; None where there is none."""
        here = self._top
        for name in path:
            pairs = here.value if isinstance(here, yaml.MappingNode) else []
            here = next((value for key, value in pairs if key.value == name), None)
        return here

    def keys(self, *path: str) -> list[str]:
        """The keys of a mapping, in the order of the text."""
        node = self.node(*path)
        return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []

    def value(self, *path: str) -> Any:
        """What a node says, with numbers and switches read as such; None where there is none."""
        node = self.node(*path)
        return None if node is None else yaml.constructor.SafeConstructor().construct_document(node)

    def names(self, *path: str) -> list[str]:
        """The scalars of a sequence; of an item with options its name."""
        return _names(self.node(*path))

    def set_value(self, text: str, *path: str) -> None:
        """Give a key a value, written in one line. A key that is not there comes behind `cmd` if it has one, else at the end."""
        *parents, name = path
        body, node = self.node(*parents), self.node(*path)
        assert isinstance(body, yaml.MappingNode), f"{self.name} has no {'.'.join(parents)}"
        if node is not None:
            start, end = node.start_mark.index, _end(node, self.text)
            self._edit(start, end, text if start < end else f" {text}")
            return
        keys = [key for key, _ in body.value]
        behind = [key for before, key in itertools.pairwise(keys) if before.value == "cmd"]
        if keys[-1].value == "cmd" and not body.flow_style:
            last = _last_line(body.value[-1][1])
            self._insert_line(last + 1, f"{' ' * keys[0].start_mark.column}{name}: {text}\n")
            return
        place = (behind or keys)[0].start_mark
        ending = ", " if body.flow_style else "\n" + " " * place.column
        self._edit(place.index, place.index, f"{name}: {text}{ending}")

    def remove(self, *path: str) -> None:
        """Take a key and its value out, with the lines that it fills; a mapping that is left empty goes too."""
        *parents, name = path
        body = self.node(*parents)
        if not isinstance(body, yaml.MappingNode) or self.node(*path) is None:
            return
        if len(body.value) == 1 and parents:
            self.remove(*parents)
            return
        place = next(place for place, (key, _) in enumerate(body.value) if key.value == name)
        key, value = body.value[place]
        if body.flow_style:
            first = place + 1 < len(body.value)
            start = key.start_mark.index if first else body.value[place - 1][1].end_mark.index
            end = body.value[place + 1][0].start_mark.index if first else value.end_mark.index
            self._edit(start, end, "")
            return
        lines = self.text.splitlines(keepends=True)
        start = sum(map(len, lines[: key.start_mark.line]))
        self._edit(start, sum(map(len, lines[: _last_line(value) + 1])), "")

    def set_list(self, items: Sequence[Item], *path: str) -> None:
        """Bring a list to these items, in the style that it has: what stays keeps its text, what is new comes last."""
        names = [_name(item) for item in items]
        if self.names(*path) == names:
            return
        node = self.node(*path)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            if items:
                self.set_value(f"[{', '.join(map(flow, items))}]", *path)
            return
        if not items:
            self.remove(*path)
        elif node.flow_style:
            written = {name: self.text[_span(item)] for name, item in zip(_names(node), node.value, strict=True)}
            kept = [name for name in _names(node) if name in names]
            new = {_name(item): flow(item) for item in items}
            order = [*kept, *(name for name in names if name not in kept)]
            text = f"[{', '.join(written.get(name, new[name]) for name in order)}]"
            self._edit(node.start_mark.index, node.end_mark.index, text)
        else:
            self._edit_block(node, items)

    def _edit_block(self, node: yaml.SequenceNode, items: Sequence[Item]) -> None:
        """Lines of items that go are taken out, new ones follow the last, and comments stay where they are."""
        lines = self.text.splitlines(keepends=True)
        first, last = node.value[0].start_mark.line, _last_line(node.value[-1])
        indent = lines[first][: lines[first].index("-")]
        before, names = _names(node), [_name(item) for item in items]
        gone: set[int] = set()
        for item, name in zip(node.value, before, strict=True):
            if name not in names:
                gone.update(range(item.start_mark.line, _last_line(item) + 1))
        body = [lines[place] for place in range(first, last + 1) if place not in gone]
        if body and not body[-1].endswith("\n"):
            body[-1] += "\n"
        body += [f"{indent}- {_block_item(item)}\n" for item in items if _name(item) not in before]
        start = sum(map(len, lines[:first]))
        self._edit(start, start + sum(map(len, lines[first : last + 1])), "".join(body))

    def add_block(self, text: str, order: Sequence[str], name: str, *path: str) -> None:
        """Put the whole lines of the key `name` into a block mapping: behind the last key that `order` has in front of it, else in
        front of the first that comes behind, else at the end.

        `UserError` for a mapping that is written in one line; an empty one gives way.
        """
        body = self.node(*path)
        assert isinstance(body, yaml.MappingNode)
        if not body.value:
            self._edit(self.text.rindex("\n", 0, body.start_mark.index) + 1, _line_end(self.text, body), text)
            return
        if body.flow_style:
            raise UserError(f"{self.name}: {'.'.join(path)} stands in one line; write a line for each, and try again")
        place = order.index(name)
        keys = [(str(key.value), key.start_mark.line, _last_line(value) + 1) for key, value in body.value]
        behind = [end for key, _, end in keys if key in order[:place]]
        before = [start for key, start, _ in keys if key in order[place:]]
        self._insert_line(max(behind) if behind else min(before) if before else keys[-1][2], text)

    def append(self, text: str) -> None:
        """Put whole lines at the end."""
        self._insert_line(len(self.text.splitlines()), text)

    def _insert_line(self, line: int, text: str) -> None:
        lines = self.text.splitlines(keepends=True)
        if lines and line >= len(lines) and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        self.text = "".join([*lines[:line], text, *lines[line:]])
        self._parse()


def flow(item: Any) -> str:
    """A value as YAML in one line that stands in a flow list too, safe from DVC's ${} where a name has one by chance."""
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{flow(str(name))}: {flow(value)}" for name, value in item.items()) + "}"
    if isinstance(item, list | tuple):
        return f"[{', '.join(map(flow, item))}]"
    return _quoted(item) if isinstance(item, str) else json.dumps(item)


def _block_item(item: Item) -> str:
    """An item with options as people write one: `path: {options}`."""
    if isinstance(item, str):
        return flow(item)
    ((name, options),) = item.items()
    return f"{name if _interpolated(name) else flow(name)}: {flow(options)}"


def _interpolated(text: str) -> bool:
    """Whether DVC fills in a value here; outside of flow lists such a text needs no quotes."""
    return "${" in text and all(char.isalnum() or char in "/._-+@${}" for char in text)


def _quoted(text: str) -> str:
    plain = bool(text) and all(char.isalnum() or char in "/._-+@" for char in text) and text[0] not in "-@"
    if plain and not text.replace(".", "").isdigit() and text not in ("true", "false", "null"):
        return text
    return json.dumps(text, ensure_ascii=False)


def _name(item: Item) -> str:
    return item if isinstance(item, str) else next(iter(item))


def _names(node: yaml.Node | None) -> list[str]:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    plain = (item.value[0][0] if isinstance(item, yaml.MappingNode) and item.value else item for item in items)
    return [str(item.value) for item in plain if isinstance(item, yaml.ScalarNode)]


def _span(node: yaml.Node) -> slice:
    return slice(node.start_mark.index, node.end_mark.index)


def _end(node: yaml.Node, text: str) -> int:
    """Where a value ends by its own text: the parser counts what follows a block up to the next token."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return node.end_mark.index
    lines = text.splitlines(keepends=True)[: _last_line(node) + 1]
    return sum(map(len, lines)) - (len(lines[-1]) - len(lines[-1].rstrip("\n")))


def _line_end(text: str, node: yaml.Node) -> int:
    end = text.find("\n", node.end_mark.index)
    return len(text) if end < 0 else end + 1


def _last_line(node: yaml.Node) -> int:
    if not isinstance(node, yaml.CollectionNode):
        # A block scalar ends where the next token begins; others end on the line of their last sign.
        return node.end_mark.line - 1 if getattr(node, "style", None) in ("|", ">") else node.end_mark.line
    if node.flow_style or not node.value:
        return node.end_mark.line if node.flow_style else node.start_mark.line
    inner = node.value[-1]
    return max(map(_last_line, inner)) if isinstance(inner, tuple) else _last_line(inner)
