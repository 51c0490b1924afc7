"""From the tree of a recipe to its dataclass, by pydantic; or to all that is wrong with it, in our words."""

import difflib
import functools
import json
import typing
from typing import Any

from fmriscale.config.document import Document, Mistake, Place, Scalar, Tree, plain_text
from fmriscale.config.hints import (
    alternatives,
    bare,
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
from fmriscale.config.paths import below
from fmriscale.config.settings import BrokenRules, PathKind

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

HELP = "(--help lists every key)"


@functools.cache
def adapter_of(cls: type) -> "TypeAdapter":
    """Return the validator of a recipe class."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def fill(cls: type, document: Document) -> tuple[Any, list[Mistake]]:
    """Make an instance of a recipe class, or name everything that is wrong.

    What is wrong is taken out and the rest looked at again, as a rule is only asked where types are right.
    """
    import pydantic

    found: list[Mistake] = []
    without: set[Place] = set()
    while True:
        kept: dict[Place, list[int]] = {}
        data = _plain(cls, document, document.tree, (), without, kept)
        try:
            made = adapter_of(cls).validate_json(json.dumps(data), strict=True)
        except pydantic.ValidationError as error:
            look = _Look(cls, document, data, kept, without)
            found += look.mistakes(error.errors(include_url=False))
            left = look.wrong - without or look.holders - without - {()}
            if not left:
                return None, found
            without |= left
        else:
            return (None if found else made), found


def mistake_at(cls: type, document: Document, place: Place, text: str) -> Mistake:
    """Return a mistake with the line and the entry of its place, or of what holds it."""
    look = _Look(cls, document, {}, {}, set())
    return look.mistake(place, text, look.entry(place[:2])[0])


# ---------------------------------------------------------------- values


def _plain(
    hint: Any, document: Document, tree: Tree, place: Place, without: set[Place], kept: dict[Place, list[int]]
) -> Any:
    """Return plain values of a tree as its annotation reads them, and the numbers of list items kept."""
    if isinstance(tree, dict):
        left = {key: value for key, value in tree.items() if (*place, key) not in without}
        return {
            key: _plain(item_at(hint, key), document, value, (*place, key), without, kept)
            for key, value in left.items()
        }
    if isinstance(tree, list):
        kept[place] = [number for number in range(len(tree)) if (*place, number) not in without]
        inner = item_at(hint, 0)
        return [_plain(inner, document, tree[n], (*place, n), without, kept) for n in kept[place]]
    value = _read(tree, hint)
    kind = path_kind(hint) if isinstance(value, str) else None
    return value if kind is None else _beside(value, kind, document, place)


def _beside(text: str, kind: PathKind, document: Document, place: Place) -> str:
    """Return a path of a recipe file as seen from the working directory."""
    origin = document.origin(place)
    return below(origin.folder, text, kind) if origin and origin.file else text


def _read(scalar: Scalar, hint: Any) -> Any:
    """Return the value of a scalar: its spelling where text is expected, else what YAML takes it for."""
    allowed = [bare(each) for each in alternatives(hint)]
    if scalar.value is None or Any in allowed or hint is None:
        return scalar.value
    if scalar.text in choices(hint):
        return scalar.text
    if str not in allowed:
        return scalar.value
    number = int in allowed and type(scalar.value) is int and str(scalar.value) == scalar.text
    return scalar.value if number else scalar.text


# ---------------------------------------------------------------- mistakes


class _Look:
    """One look at what pydantic finds wrong."""

    def __init__(
        self, cls: type, document: Document, data: Any, kept: dict[Place, list[int]], without: set[Place]
    ) -> None:
        self.cls, self.document, self.data, self.kept, self.without = cls, document, data, kept, without
        self.wrong: set[Place] = set()
        """What is to be left out of the next look."""
        self.holders: set[Place] = set()
        """Parts that cannot be made, to be left out when nothing in them is left to look at."""

    def mistakes(self, errors: list[Any]) -> list[Mistake]:
        found, told = [], set[Place]()
        for error in errors:
            place = self.place(error["loc"])
            match error["type"]:
                case "missing" if place in self.without or place not in self.document.origins:
                    self.holders.add(place[:-1])
                    if place not in self.without:
                        found.append(self.mistake(place, self.missing(place)))
                case "value_error":
                    found += self.rules(place, error["ctx"]["error"])
                case "unexpected_keyword_argument":
                    self.wrong.add(place)
                    found.append(self.mistake(place, self.unknown(place), self.entry(place)[0]))
                case _ if place not in told:
                    told.add(place)  # every type of a union complains
                    self.wrong.add(place)
                    found.append(self.mistake(place, self.wrong_type(place)))
        return found

    def place(self, loc: tuple[str | int, ...]) -> Place:
        """Translate pydantic's place: without names of types, and with list items numbered as given."""
        place, data = (), self.data
        for number, key in enumerate(loc):
            if isinstance(data, dict) and key in data:
                place, data = (*place, key), data[key]
            elif isinstance(data, list) and isinstance(key, int) and key < len(data):
                place, data = (*place, self.kept[place][key]), data[key]
            elif isinstance(data, dict) and number == len(loc) - 1 and key in fields_of_hint(self.cls, place):
                return (*place, key)
            else:
                return place
        return place

    def mistake(self, place: Place, text: str, entry: str | None = None) -> Mistake:
        return Mistake(self.document.origin(place), text, self.entry(place)[0] if entry is None else entry)

    def entry(self, place: Place) -> tuple[str, str]:
        """Split a place into the entry of a list of parts and the dotted key below."""
        told, hint, entry = "", self.cls, ""
        for end, key in enumerate(place, 1):
            told += f"[{key}]" if isinstance(key, int) else f".{key}" if told else str(key)
            hint = item_at(hint, key)
            if isinstance(key, int) and recipe_class(hint):
                tree = self.document.at(place[:end])
                name = tree.get("name") if isinstance(tree, dict) else None
                entry, told = told + (f" '{name.text}'" if isinstance(name, Scalar) else ""), ""
        return entry, told

    def missing(self, place: Place) -> str:
        hint, name = hint_at(self.cls, place), self.entry(place)[1]
        if part := recipe_class(hint):
            return f"{' and '.join(f'{name}.{key}' for key in required(part))} must be given"
        return f"{name} is missing; it must be {type_words(hint)}"

    def wrong_type(self, place: Place) -> str:
        hint: Any = hint_at(self.cls, place)
        tree: Any = self.document.at(place)
        name = self.entry(place)[1]
        if not name:
            return f"'{_short(tree)}' is no mapping of keys to values"
        told = f"{name} is {_shown(tree)}; it must be {type_words(hint)}"
        allowed = {bare(each) for each in alternatives(hint)}
        if isinstance(tree, Scalar) and tree.value is None and str in allowed:
            return f"{told} (in quotes it is text)"
        if isinstance(tree, Scalar) and isinstance(tree.value, str) and allowed & {int, float, bool}:
            meant = plain_text("", tree.text).tree
            if isinstance(meant, Scalar) and type(meant.value) in allowed:
                return f"{told}: write it without quotes"
        return told

    def unknown(self, place: Place) -> str:
        """Name a key that is not known, with what is meant."""
        _, dotted = self.entry(place)
        key = str(place[-1])
        if any(isinstance(k, int) for k in place) and key in fields_of(self.cls):
            return f"'{key}' is a key of the recipe itself; move it out of {place[0]}"
        near = nearest(self.cls, place)
        return (
            f"'{dotted}' is no key of a recipe" + (f"; did you mean '{near}'?" if near else "") + f" {HELP}"
        )

    def rules(self, place: Place, error: Exception) -> list[Mistake]:
        """Return the rules that a part breaks, but for those that what was taken out may have met."""
        broken = error.broken if isinstance(error, BrokenRules) else [((), str(error))]
        gap = any(p[: len(place)] == place and p != place for p in self.without)
        found = []
        for keys, text in broken:
            given = [(*place, key) for key in keys if (*place, key) in self.document.origins]
            given = [p for p in given if p not in self.without]
            self.wrong |= set(given)
            self.holders.add(place)
            if gap and not given:
                continue
            options = [p for p in given if self.document.origins[p].option]
            at = next(iter(options or given), place)
            found.append(Mistake(self.document.origin(at), text, self.entry(place)[0]))
        return found


def fields_of_hint(cls: type, place: Place) -> dict[str, Any]:
    """Return the keys that may stand at a place."""
    part = recipe_class(hint_at(cls, place))
    return fields_of(part) if part else {}


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
    key, known = str(place[-1]), keys_of(part)
    siblings = [k for k in known if k.rpartition(".")[0] == dotted.rpartition(".")[0]]
    last = {k.rpartition(".")[2]: k for k in reversed(known)}
    for like, among in ((dotted, siblings), (dotted, list(known)), (key, list(last))):
        if near := difflib.get_close_matches(like, among, n=1, cutoff=0.7):
            return last.get(near[0], near[0]) if among == list(last) else near[0]
    return None


def _shown(tree: Tree) -> str:
    """Write a value for a message."""
    if isinstance(tree, Scalar):
        return "null" if tree.value is None else f"'{_short(tree)}'"
    return "a mapping" if isinstance(tree, dict) else f"'{_short(tree)}'"


def _short(tree: Tree) -> str:
    """Write a value on one line, cut where it is long."""
    text = " ".join(_flow(tree).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flow(tree: Tree) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in tree.items()) + "}"
    return tree.text if isinstance(tree, Scalar) else f"[{', '.join(map(_flow, tree))}]"
