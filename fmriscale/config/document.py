"""A recipe's YAML as a tree that knows where each value was written, and how it was spelled.

Scalars are those of YAML 1.2's core schema: `off`, `1_000` and `2024-01-02` are text, `1e-4` is a number. The
spelling is kept beside the value, so that `ses: 010` can mean the session 010.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean_path


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


@dataclass(frozen=True)
class Node:
    """A value of a recipe."""

    value: Any  # A scalar as the core schema takes it, a list of nodes, or nodes by key
    origin: Origin | None  # Where it was given; of a value in a mapping, the line of its key
    text: str = ""  # The spelling of a scalar

    def child(self, key: str | int) -> "Node | None":
        """Return the node at a key or number; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None


def read_file(file: str, prog: str) -> tuple[Node, list[Mistake]]:
    """Read a recipe file."""
    try:
        node = yaml.compose(Path(file).read_text(), Loader=CoreLoader)
    except OSError as error:
        hint = did_you_mean_path(file, below="configs") or "; give the path of a recipe"
        raise UserError(f"--config {file}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: not a text file; a recipe is YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise UserError(f"{file}: {line}not YAML ({_problem(error)}); correct it there or above") from error
    except RecursionError as error:
        raise UserError(f"{file}: {_DEEP}") from error
    if not isinstance(node, yaml.MappingNode):
        what = "empty" if node is None else "no mapping of keys to values"
        raise UserError(f"{file}: {what}; {prog} needs a recipe (configs/ has examples)")
    builder = _Builder(lambda mark: Origin(file, mark.line + 1))
    return builder.build(node), builder.mistakes


def read_option(option: str, text: str) -> tuple[Node, list[Mistake]]:
    """Read the value of an option, which is YAML."""
    try:
        node = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{option} {text}: not YAML ({_problem(error)}); correct it") from error
    except RecursionError as error:
        raise UserError(f"{option}: {_DEEP}") from error
    builder = _Builder(lambda _: Origin(option=option))
    return builder.build(node) if node else plain_text(option, text), builder.mistakes


def plain_text(option: str, text: str) -> Node:
    """Take the value of an option as one scalar, whatever signs it holds."""
    tag = CoreLoader("").resolve(yaml.ScalarNode, text, (True, False))
    return Node(_value(yaml.ScalarNode(tag, text)), Origin(option=option), text)


def node_of(value: Any, origin: Origin) -> Node:
    """Return plain values as a node."""
    if isinstance(value, dict):
        return Node({key: node_of(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([node_of(item, origin) for item in value], origin)
    return Node(value, origin, str(value))


_DEEP = "nested too deeply for a recipe; write it flat"
_MOST_NODES = 200_000  # Values of a recipe: aliases of aliases make a few lines into as many as they like


def _problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


class _Builder:
    """Turns the nodes of YAML into ours; a key that stands twice or an unknown tag is a mistake."""

    def __init__(self, origin: Callable[[Any], Origin]) -> None:
        self.origin = origin
        self.mistakes: list[Mistake] = []
        self.n_nodes = 0

    def build(self, node: Any, origin: Origin | None = None, above: frozenset[int] = frozenset()) -> Node:
        origin = origin or self.origin(node.start_mark)
        self.n_nodes += 1
        if self.n_nodes > _MOST_NODES:
            what = f"more than {_MOST_NODES:,} values, by aliases of aliases"
            raise UserError(f"{origin}: {what}; write them out")
        if node.tag not in TAGS:
            self.mistakes.append(Mistake(origin, f"the tag {node.tag} means nothing in a recipe; remove it"))
        if isinstance(node, yaml.ScalarNode):
            return Node(_value(node), origin, node.value)
        inside = self.enter(node, above)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.build(item, None, inside) for item in node.value], origin)
        pairs = self.pairs(node, inside)
        return Node({key: self.build(value, at, inside) for key, at, value in pairs}, origin)

    def enter(self, node: Any, above: frozenset[int]) -> frozenset[int]:
        """Note that a node is being built, which may not hold itself."""
        if id(node) in above:
            what = "an alias stands inside the anchor that it repeats; write it out"
            raise UserError(f"{self.origin(node.start_mark)}: {what}")
        return above | {id(node)}

    def pairs(self, node: Any, inside: frozenset[int]) -> Iterator[tuple[str, Origin, Any]]:
        """Yield the pairs of a mapping, those that it merges (<<) first, so that its own replace them."""
        own: dict[str, tuple[Origin, Any]] = {}
        merged: list[Any] = []
        for key, value in node.value:
            origin = self.origin(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{origin}: a key must be text, not a list or mapping")
            if key.tag == MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if key.value in own:
                twice = f"'{key.value}' stands here a second time; keep one of them"
                self.mistakes.append(Mistake(origin, twice))
            own[key.value] = (origin, value)
        for other in reversed(merged):
            if not isinstance(other, yaml.MappingNode):
                raise UserError(f"{self.origin(other.start_mark)}: << takes a mapping; name an anchor of one")
            yield from self.pairs(other, self.enter(other, inside))
        yield from ((key, *pair) for key, pair in own.items())


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
