"""A recipe's YAML as a tree that knows where each value was written, and how it was spelled.

Scalars are those of YAML 1.2's core schema: `off`, `1_000` and `2024-01-02` are text, `1e-4` is a number. The
spelling is kept beside the value, so that `ses: 010` can mean the session 010.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fmriscale.common.errors import UserError
from fmriscale.config.settings import Place, hint_at, recipe_class


@dataclass(frozen=True)
class Scalar:
    """A value that holds no others: as the core schema takes it, and as it is spelled."""

    value: Any
    text: str


Tree = dict[str, Any] | list[Any] | Scalar


@dataclass(frozen=True)
class Origin:
    """Where a value was given: on a line of a file, or by an option."""

    file: str = ""
    line: int = 0
    option: str = ""

    def __str__(self) -> str:
        return self.option or f"{self.file}: line {self.line}"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a recipe: where, what with the remedy, and in which entry of a list."""

    origin: Origin | None
    text: str
    entry: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.origin or ""), self.entry, self.text)))


@dataclass
class Part:
    """What one file or one option gives."""

    tree: Any
    origins: dict[Place, Origin]
    mistakes: list[Mistake] = field(default_factory=list)

    def below(self, key: str | int) -> "Part":
        """Return what stands at a key."""
        return Part(self.tree[key], {p[1:]: o for p, o in self.origins.items() if p[:1] == (key,)})


class Document:
    """A recipe while it is put together: each part that comes later replaces what it gives."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.tree: dict[str, Any] = {}
        self.origins: dict[Place, Origin] = {}
        self.mistakes: list[Mistake] = []

    def at(self, place: Place) -> Tree | None:
        """Return what stands at a place; None where nothing does."""
        tree: Any = self.tree
        for key in place:
            if isinstance(tree, dict):
                tree = tree.get(str(key))
            else:
                tree = tree[key] if isinstance(tree, list) and isinstance(key, int) else None
        return tree

    def origin(self, place: Place) -> Origin | None:
        """Return where a value was given; of a missing one, where what should hold it was."""
        known = (self.origins.get(place[:end]) for end in range(len(place), -1, -1))
        return next((origin for origin in known if origin), None)

    def put(self, place: Place, part: Part, merge: bool = True) -> None:
        """Put a part in its place; a part of a recipe that is there keeps its other keys."""
        is_part = recipe_class(hint_at(self.cls, place)) is not None
        if merge and is_part and isinstance(part.tree, dict) and isinstance(self.at(place), dict):
            for key in part.tree:
                self.put((*place, key), part.below(key))
            return
        self.origins = {p: o for p, o in self.origins.items() if p[: len(place)] != place}
        self.origins |= {(*place, *p): o for p, o in part.origins.items()}
        if not place:
            self.tree = part.tree
            return
        holder: Any = self.tree
        for number, key in enumerate(place[:-1], 1):
            if isinstance(holder, dict) and not isinstance(holder.get(key), dict | list):
                holder[key] = {}
                self.origins[place[:number]] = part.origins[()]
            holder = holder[key]
        if isinstance(holder, list) and place[-1] == len(holder):
            holder.append(part.tree)
        else:
            holder[place[-1]] = part.tree


def read_file(file: str, prog: str) -> Part:
    """Read a recipe file."""
    try:
        node = yaml.compose(Path(file).read_text(), Loader=CoreLoader)
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}; give the path of a recipe") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: not a text file; a recipe is YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise UserError(f"{file}: {line}not YAML ({_problem(error)}); mend it there or just above") from error
    if not isinstance(node, yaml.MappingNode):
        what = "empty" if node is None else "no mapping of keys to values"
        raise UserError(f"{file}: {what}; {prog} needs a recipe (configs/ has examples)")
    return _Builder(lambda mark: Origin(file, mark.line + 1)).part(node)


def read_option(option: str, text: str) -> Part:
    """Read the value of an option, which is YAML."""
    try:
        node = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{option} {text}: not YAML ({_problem(error)}); mend it") from error
    return _Builder(lambda _: Origin(option=option)).part(node) if node else plain_text(option, text)


def plain_text(option: str, text: str) -> Part:
    """Take the value of an option as one scalar, whatever signs it holds."""
    tag = CoreLoader("").resolve(yaml.ScalarNode, text, (True, False))
    return Part(Scalar(_value(yaml.ScalarNode(tag, text)), text), {(): Origin(option=option)})


def tree_of(value: Any) -> Tree:
    """Return plain values as a tree."""
    if isinstance(value, dict):
        return {key: tree_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tree_of(item) for item in value]
    return Scalar(value, str(value))


def _problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


class _Builder:
    """Turns the nodes of YAML into a tree; a key that stands twice or an unknown tag is a mistake."""

    def __init__(self, origin: Callable[[Any], Origin]) -> None:
        self.origin = origin
        self.origins: dict[Place, Origin] = {}
        self.mistakes: list[Mistake] = []

    def part(self, node: Any) -> Part:
        return Part(self.build(node, (), set()), self.origins, self.mistakes)

    def build(self, node: Any, place: Place, open_nodes: set[int]) -> Tree:
        origin = self.origin(node.start_mark)
        self.origins.setdefault(place, origin)
        if node.tag not in TAGS:
            self.mistakes.append(Mistake(origin, f"the tag {node.tag} means nothing in a recipe; remove it"))
        if isinstance(node, yaml.ScalarNode):
            return Scalar(_value(node), node.value)
        inside = self.enter(node, open_nodes)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, number), inside) for number, item in enumerate(node.value)]
        tree = {}
        for key, key_node, value in self.pairs(node, inside):
            for known in [p for p in self.origins if p[: len(place) + 1] == (*place, key)]:
                del self.origins[known]
            self.origins[*place, key] = self.origin(key_node.start_mark)
            tree[key] = self.build(value, (*place, key), inside)
        return tree

    def enter(self, node: Any, open_nodes: set[int]) -> set[int]:
        """Note that a node is being built, which may not hold itself."""
        if id(node) in open_nodes:
            what = "an alias stands inside the anchor that it repeats; write it out"
            raise UserError(f"{self.origin(node.start_mark)}: {what}")
        return {*open_nodes, id(node)}

    def pairs(self, node: Any, inside: set[int]) -> Iterator[tuple[str, Any, Any]]:
        """Yield the pairs of a mapping, those that it merges (<<) first, so that its own replace them."""
        own: dict[str, tuple[Any, Any]] = {}
        merged: list[Any] = []
        for key, value in node.value:
            origin = self.origin(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{origin}: a key must be text, not a list or mapping")
            if key.value in own:
                twice = f"'{key.value}' stands here a second time; keep one of them"
                self.mistakes.append(Mistake(origin, twice))
            if key.tag == MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            own[key.value] = (key, value)
        for other in reversed(merged):
            if not isinstance(other, yaml.MappingNode):
                raise UserError(f"{self.origin(other.start_mark)}: << takes a mapping; name an anchor of one")
            yield from self.pairs(other, self.enter(other, inside))
        yield from ((key, *pair) for key, pair in own.items() if pair[0].tag != MERGE)


# ---------------------------------------------------------------- YAML 1.2, core schema

_TAG = "tag:yaml.org,2002:"
MERGE = f"{_TAG}merge"
TAGS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class CoreLoader(yaml.SafeLoader):
    """A loader that knows the scalars of the core schema, and merge keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_NUMBER = list("-+.0123456789")
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBER),
    ("float", _FLOAT, _NUMBER),
    ("merge", r"<<", ["<"]),
):
    CoreLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), _first)


def _value(node: Any) -> Any:
    """Return the value of a scalar; where its tag does not fit, its text."""
    name, text = node.tag.removeprefix(_TAG), node.value
    try:
        match name:
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}.get(text.lower(), text)
            case "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        pass
    return text


class _CoreDumper(yaml.SafeDumper):
    """A writer that puts in quotes what either version of YAML would take for something else than text."""


for _first, _resolvers in CoreLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _CoreDumper.add_implicit_resolver(_tag, _pattern, [_first])


def dump(content: Any) -> str:
    """Write plain values as YAML; a recipe comes back as it was."""
    return yaml.dump(content, Dumper=_CoreDumper, sort_keys=False)
