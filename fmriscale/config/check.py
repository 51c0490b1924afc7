"""From the tree of a recipe to its dataclass, by pydantic; or to all that is wrong with it, in our words."""

import difflib
import functools
import json
import typing
from pathlib import Path
from typing import Any

from fmriscale.config.document import Document, Mistake, Scalar, Tree, plain_text
from fmriscale.config.paths import below
from fmriscale.config.settings import (
    BrokenRules,
    Place,
    bare_types,
    choices,
    fields_of,
    hint_at,
    item_at,
    keys_of,
    listed_class,
    path_kind,
    recipe_class,
    required,
    type_words,
)

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

HELP = "(--help lists every key)"


@functools.cache
def adapter_of(cls: type) -> "TypeAdapter":
    """Return the validator of a recipe class."""
    import pydantic

    return pydantic.TypeAdapter(cls)


class Checker:
    """Holds a recipe against its class; what is wrong is left out, and the rest looked at again.

    That is needed as pydantic asks for the rules of a part only where all of its types are right.
    """

    def __init__(self, document: Document) -> None:
        self.cls, self.document = document.cls, document
        self._data: Any = {}
        self._left_out: set[Place] = set()
        self._kept: dict[Place, list[int]] = {}
        """By place of a list, the numbers of its items that are looked at."""
        self._wrong: set[Place] = set()
        """What is to be left out of the next look."""
        self._holders: set[Place] = set()
        """Parts that cannot be made, to be left out when nothing in them is left to look at."""

    def fill(self) -> tuple[Any, list[Mistake]]:
        """Make an instance of the recipe class, or name everything that is wrong."""
        import pydantic

        mistakes: list[Mistake] = []
        while True:
            self._kept, self._wrong, self._holders = {}, set(), set()
            self._data = self._plain(self.cls, self.document.tree, ())
            try:
                made = adapter_of(self.cls).validate_json(json.dumps(self._data), strict=True)
            except pydantic.ValidationError as error:
                mistakes += self._mistakes(error.errors(include_url=False))
                more = self._wrong - self._left_out or self._holders - self._left_out - {()}
                if not more:
                    return None, mistakes
                self._left_out |= more
            else:
                return (None if mistakes else made), mistakes

    def mistake(self, place: Place, text: str) -> Mistake:
        """Return a mistake with the line of its place, or of what holds it, and the entry of a list."""
        return Mistake(self.document.origin(place), text, self._entry(place)[0])

    # ------------------------------------------------------------ values

    def _plain(self, hint: Any, tree: Tree, place: Place) -> Any:
        """Return plain values of a tree as its annotation reads them, but for what is left out."""
        if isinstance(tree, dict):
            kept = [key for key in tree if (*place, key) not in self._left_out]
            return {key: self._plain(item_at(hint, key), tree[key], (*place, key)) for key in kept}
        if isinstance(tree, list):
            numbers = [n for n in range(len(tree)) if (*place, n) not in self._left_out]
            self._kept[place] = numbers
            return [self._plain(item_at(hint, 0), tree[n], (*place, n)) for n in numbers]
        value, kind, origin = _read(tree, hint), path_kind(hint), self.document.origin(place)
        if kind is None or not isinstance(value, str) or not (origin and origin.file):
            return value
        return below(str(Path(origin.file).parent), value, kind)

    # ------------------------------------------------------------ mistakes

    def _mistakes(self, errors: list[Any]) -> list[Mistake]:
        mistakes, seen = [], set[Place]()
        for error in errors:
            place = self._place(error["loc"])
            match error["type"]:
                case "missing" if place in self._left_out or place not in self.document.origins:
                    self._holders.add(place[:-1])
                    if place not in self._left_out:
                        mistakes.append(self.mistake(place, self._missing(place)))
                case "value_error":
                    mistakes += self._broken_rules(place, error["ctx"]["error"])
                case "unexpected_keyword_argument":
                    self._wrong.add(place)
                    mistakes.append(self.mistake(place, self._unknown(place)))
                case _ if place not in seen:
                    seen.add(place)  # every type of a union complains
                    self._wrong.add(place)
                    mistakes.append(self.mistake(place, self._wrong_type(place)))
        return mistakes

    def _place(self, loc: tuple[str | int, ...]) -> Place:
        """Translate pydantic's place: without names of types, and with list items numbered as given."""
        place, data = (), self._data
        for number, key in enumerate(loc, 1):
            if isinstance(data, dict) and key in data:
                place, data = (*place, key), data[key]
            elif isinstance(data, list) and isinstance(key, int) and key < len(data):
                place, data = (*place, self._kept[place][key]), data[key]
            else:
                part = recipe_class(hint_at(self.cls, place))
                is_key = isinstance(data, dict) and number == len(loc) and part and key in fields_of(part)
                return (*place, key) if is_key else place
        return place

    def _entry(self, place: Place) -> tuple[str, str]:
        """Split a place into the entry of a list of parts and the dotted key below."""
        dotted, hint, entry = "", self.cls, ""
        for end, key in enumerate(place, 1):
            dotted += f"[{key}]" if isinstance(key, int) else f".{key}" if dotted else str(key)
            hint = item_at(hint, key)
            if isinstance(key, int) and recipe_class(hint):
                tree = self.document.at(place[:end])
                name = tree.get("name") if isinstance(tree, dict) else None
                entry, dotted = dotted + (f" '{name.text}'" if isinstance(name, Scalar) else ""), ""
        return entry, dotted

    def _missing(self, place: Place) -> str:
        hint, name = hint_at(self.cls, place), self._entry(place)[1]
        if part := recipe_class(hint):
            return f"{' and '.join(f'{name}.{key}' for key in required(part))} must be given"
        return f"{name} is missing; it must be {type_words(hint)}"

    def _wrong_type(self, place: Place) -> str:
        hint, tree, name = hint_at(self.cls, place), self.document.at(place), self._entry(place)[1]
        assert tree is not None
        if not name:
            return f"'{_short(tree)}' is no mapping of keys to values"
        text, allowed = f"{name} is {_shown(tree)}; it must be {type_words(hint)}", set(bare_types(hint))
        if isinstance(tree, Scalar) and tree.value is None and str in allowed:
            return f"{text} (in quotes it is text)"
        quoted = isinstance(tree, Scalar) and isinstance(tree.value, str) and allowed & {int, float, bool}
        if quoted and type(plain_text("", tree.text).tree.value) in allowed:
            return f"{text}: write it without quotes"
        return text

    def _unknown(self, place: Place) -> str:
        """Name a key that is not known, with what is meant."""
        key = str(place[-1])
        if any(isinstance(k, int) for k in place) and key in fields_of(self.cls):
            return f"'{key}' is a key of the recipe itself; move it out of {place[0]}"
        near = nearest(self.cls, place)
        meant = f"; did you mean '{near}'?" if near else ""
        return f"'{self._entry(place)[1]}' is no key of a recipe{meant} {HELP}"

    def _broken_rules(self, place: Place, error: Exception) -> list[Mistake]:
        """Return the rules that a part breaks, but for those that what was left out may have met."""
        broken = error.broken if isinstance(error, BrokenRules) else [((), str(error))]
        gap = any(p[: len(place)] == place and p != place for p in self._left_out)
        self._holders.add(place)
        mistakes, origins = [], self.document.origins
        for keys, text in broken:
            given = [p for p in ((*place, key) for key in keys) if p in origins and p not in self._left_out]
            self._wrong |= set(given)
            if given or not gap:
                at = next((p for p in given if origins[p].option), given[0] if given else place)
                mistakes.append(Mistake(self.document.origin(at), text, self._entry(place)[0]))
        return mistakes


def _read(scalar: Scalar, hint: Any) -> Any:
    """Return the value of a scalar: its spelling where text is expected, else what YAML takes it for."""
    allowed = bare_types(hint)
    if scalar.value is None or Any in allowed or hint is None:
        return scalar.value
    if scalar.text in choices(hint):
        return scalar.text
    if str not in allowed:
        return scalar.value
    number = int in allowed and type(scalar.value) is int and str(scalar.value) == scalar.text
    return scalar.value if number else scalar.text


def nearest(cls: type, place: Place) -> str | None:
    """Return the known dotted key, below the entry of a list that it is in, most like an unknown one."""
    part, start = cls, 0
    for end in range(1, len(place)):
        hint = hint_at(cls, place[:end])
        if isinstance(place[end - 1], int) and (inner := recipe_class(hint)):
            part, start = inner, end
        elif inner := listed_class(hint):
            part, start = inner, end + (0 if isinstance(place[end], str) else 1)
    dotted = ".".join(str(key) for key in place[start:] if isinstance(key, str))
    known = keys_of(part)
    siblings = [k for k in known if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    by_last = {k.rpartition(".")[2]: k for k in reversed(known)}
    for word, among in ((dotted, siblings), (dotted, known)):
        if near := difflib.get_close_matches(word, among, n=1, cutoff=0.7):
            return near[0]
    near = difflib.get_close_matches(str(place[-1]), by_last, n=1, cutoff=0.7)
    return by_last[near[0]] if near else None


def _shown(tree: Tree) -> str:
    """Write a value for a message."""
    if isinstance(tree, Scalar) and tree.value is None:
        return "null"
    return "a mapping" if isinstance(tree, dict) else f"'{_short(tree)}'"


def _short(tree: Tree) -> str:
    """Write a value on one line, cut where it is long."""
    text = " ".join(_flow(tree).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flow(tree: Tree) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in tree.items()) + "}"
    return tree.text if isinstance(tree, Scalar) else f"[{', '.join(map(_flow, tree))}]"
