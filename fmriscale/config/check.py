"""From the nodes of a recipe to its dataclass, or to all that is wrong with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmriscale.common.suggest import did_you_mean, nearest
from fmriscale.config.document import Mistake, Node, plain_text
from fmriscale.config.paths import below
from fmriscale.config.settings import (
    BrokenRules,
    Place,
    bare_types,
    choices,
    fields_of,
    item_at,
    items_of,
    keys_of,
    path_kind,
    recipe_class,
    required,
    tuple_length,
    type_words,
)

HELP = "(--help lists every key)"
WRONG: Any = object()
"""Stands for a value that cannot be used; what is wrong with it is noted."""


@dataclass(frozen=True)
class Scope:
    """Where a value stands, as messages name it: the entry of a list, and the dotted key below."""

    cls: type
    """Class of the recipe, or of the entry."""
    entry: str = ""
    key: str = ""

    def below(self, key: str | int, hint: Any, node: Node | None) -> "Scope":
        """Return where what a key or number leads to stands; an entry is named by its `name`."""
        if isinstance(key, str):
            return Scope(self.cls, self.entry, f"{self.key}.{key}" if self.key else key)
        if not (part := recipe_class(hint)):
            return Scope(self.cls, self.entry, f"{self.key}[{key}]")
        name = node.child("name") if node else None
        return Scope(part, f"{self.key}[{key}]" + (f" '{name.text}'" if name else ""))


class Filler:
    """Makes an instance of a recipe class, and notes every mistake on the way."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.mistakes: list[Mistake] = []

    def fill(self, root: Node) -> Any:
        """Return the instance; of no use where there are mistakes."""
        return self._read(self.cls, root, Scope(self.cls))

    def note_at(self, root: Node, place: Place, text: str) -> None:
        """Note a mistake with the line of its place, or of what holds it."""
        node, hint, scope = root, self.cls, Scope(self.cls)
        for key in place:
            inner, hint = node.child(key), item_at(hint, key)
            if inner is None:
                break
            node, scope = inner, scope.below(key, hint, inner)
        self._note(node, scope, text)

    def _note(self, node: Node, scope: Scope, text: str) -> Any:
        self.mistakes.append(Mistake(node.origin, text, scope.entry))
        return WRONG

    def _read(self, hint: Any, node: Node, scope: Scope) -> Any:
        """Return a node as its annotation reads it; lists and mappings leave out what is wrong."""
        value = node.value
        if isinstance(value, dict):
            if part := recipe_class(hint):
                return self._part(part, node, scope)
            if (inner := items_of(hint, dict)) is not None:
                read = {k: self._read(inner, item, scope.below(k, inner, item)) for k, item in value.items()}
                return {key: item for key, item in read.items() if item is not WRONG}
        elif isinstance(value, list):
            inner, length = items_of(hint, list), tuple_length(hint)
            if inner is not None and length in (None, len(value)):
                numbered = enumerate(value)
                items = [self._read(inner, item, scope.below(n, inner, item)) for n, item in numbered]
                items = [item for item in items if item is not WRONG]
                return items if length is None else tuple(items) if len(items) == length else WRONG
        elif (scalar := _scalar(hint, node)) is not WRONG:
            kind, origin = path_kind(hint), node.origin
            if kind is None or not isinstance(scalar, str) or not (origin and origin.file):
                return scalar
            return below(str(Path(origin.file).parent), scalar, kind)
        return self._note(node, scope, _wrong_type(hint, node, scope.key))

    def _part(self, cls: type, node: Node, scope: Scope) -> Any:
        """Make a part of a recipe; defaults stand for wrong values, so that its rules are asked too."""
        n_before, values, hints = len(self.mistakes), {}, fields_of(cls)
        for key, inner in node.value.items():
            at = scope.below(key, hints.get(key), inner)
            if key not in hints:
                self._note(inner, scope, self._unknown(key, at))
            elif (value := self._read(hints[key], inner, at)) is not WRONG:
                values[key] = value
        for key in required(cls):
            if key not in node.value:
                self._note(node, scope, _missing(hints[key], scope.below(key, None, None).key))
        if not set(required(cls)) <= set(values):
            return WRONG
        is_whole = len(self.mistakes) == n_before
        try:
            return cls(**values)
        except BrokenRules as error:
            for keys, text in error.broken:
                given = [node.value[key] for key in keys if key in values]
                by_option = [inner for inner in given if inner.origin and inner.origin.option]
                if given or is_whole:  # else a wrong value would have met the rule
                    self._note(next(iter(by_option or given), node), scope, text)
            return WRONG

    def _unknown(self, key: str, at: Scope) -> str:
        """Name a key that is not known, with what is meant."""
        if at.entry and key in fields_of(self.cls):
            return f"'{key}' is a key of the recipe itself; move it out of {at.entry.partition('[')[0]}"
        return f"'{at.key}' is no key of a recipe{nearest_key(at.cls, at.key)} {HELP}"


def _scalar(hint: Any, node: Node) -> Any:
    """Return a scalar as an annotation reads it: its spelling for text, else what YAML takes it for."""
    allowed, value = bare_types(hint), node.value
    if Any in allowed:
        return value
    if value is not None and node.text in choices(hint):
        return node.text
    if value is not None and str in allowed:
        if float in allowed and type(value) in (int, float):
            return float(value)
        is_number = int in allowed and type(value) is int and str(value) == node.text
        return value if is_number else node.text
    if type(value) in allowed or any(value == c and type(value) is type(c) for c in choices(hint)):
        return value
    return float(value) if type(value) is int and float in allowed else WRONG


def _wrong_type(hint: Any, node: Node, key: str) -> str:
    if not key:
        return f"'{_short(node)}' is no mapping of keys to values"
    value: Any = node.value
    allowed = set(bare_types(hint))
    shown = "null" if value is None else "a mapping" if isinstance(value, dict) else f"'{_short(node)}'"
    text = f"{key} is {shown}; it must be {type_words(hint)}"
    if known := choices(hint):
        return text + did_you_mean(node.text, map(str, known))
    if value is None and str in allowed:
        return f"{text} (in quotes it is text)"
    if isinstance(value, str) and allowed & {int, float, bool}:
        return f"{text}: write it without quotes" if type(plain_text("", value).value) in allowed else text
    return text


def _missing(hint: Any, key: str) -> str:
    if part := recipe_class(hint):
        return f"{' and '.join(f'{key}.{inner}' for inner in required(part))} must be given"
    return f"{key} is missing; it must be {type_words(hint)}"


def nearest_key(cls: type, dotted: str) -> str:
    """Say what to do for an unknown key: what the class tells, or the key that is most like it."""
    if remedy := getattr(cls, "elsewhere", {}).get(dotted):
        return f"; {remedy}"
    known = keys_of(cls)
    siblings = [k for k in known if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    by_last = {k.rpartition(".")[2]: k for k in reversed(known)}
    for word, among in ((dotted, siblings), (dotted, known), (dotted.rpartition(".")[2], list(by_last))):
        if near := nearest(word, among, cutoff=0.7):
            return f"; did you mean '{by_last.get(near[0], near[0]) if among == list(by_last) else near[0]}'?"
    return ""


def _short(node: Node) -> str:
    """Write a value on one line, cut where it is long."""
    text = " ".join(_flow(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flow(node: Node) -> str:
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in node.value.items()) + "}"
    return f"[{', '.join(map(_flow, node.value))}]" if isinstance(node.value, list) else node.text
