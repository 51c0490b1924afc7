"""What all parts of a recipe share: rules beyond types, kinds of paths, and annotations put into words."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, Union

Rule = tuple[tuple[str, ...], str]
"""The keys that a broken rule is about (none: the part as a whole), and what is wrong, with the remedy."""
Place = tuple[str | int, ...]
"""Keys and numbers of list items from the top of a recipe to a value."""


class BrokenRules(ValueError):
    """Values that are of the right type and still cannot be."""

    def __init__(self, broken: list[Rule]) -> None:
        super().__init__("; ".join(text for _, text in broken))
        self.broken = broken


class Settings:
    """A part of a recipe; subclasses are frozen dataclasses, and keys that they do not have are refused."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    """Read by pydantic: a key that the part does not have is refused."""
    elsewhere: ClassVar[dict[str, str]] = {}
    """What to do for a dotted key that a recipe does not have, where a reader may well look for it."""

    def _broken_rules(self) -> Iterator[Rule]:
        """Yield every rule beyond types that the values break."""
        yield from ()

    def __post_init__(self) -> None:
        if broken := list(self._broken_rules()):
            raise BrokenRules(broken)


class PathKind(Enum):
    """How the text of a setting names files: relative ones are relative to the recipe's folder."""

    PATH = "a path, or a URL"
    NAME_OR_PATH = "a bare name, or a path"
    TEMPLATE = "a path with {fields} that each run fills in"


PathText = Annotated[str, PathKind.PATH]
NameOrPath = Annotated[str, PathKind.NAME_OR_PATH]
PathTemplate = Annotated[str, PathKind.TEMPLATE]

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
MANY = {str: "texts", int: "whole numbers", float: "numbers"}


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a recipe class by key, markers included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def alternatives(hint: Any) -> list[Any]:
    """Return the types that an annotation allows, each still with its marker."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [each for arg in typing.get_args(hint) for each in alternatives(arg)]
    return [hint]


def bare_types(hint: Any) -> list[Any]:
    """Return the types that an annotation allows, without markers."""
    return [typing.get_args(a)[0] if hasattr(a, "__metadata__") else a for a in alternatives(hint)]


def path_kind(hint: Any) -> PathKind | None:
    """Return how a text of this annotation names files; None where it does not."""
    markers = (marker for each in alternatives(hint) for marker in getattr(each, "__metadata__", ()))
    return next((marker for marker in markers if isinstance(marker, PathKind)), None)


def recipe_class(hint: Any) -> type | None:
    """Return the dataclass that an annotation allows."""
    kinds = bare_types(hint)
    return next((k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def listed_class(hint: Any) -> type | None:
    """Return the dataclass whose instances a list holds."""
    return recipe_class(items_of(hint, list))


def items_of(hint: Any, kind: type) -> Any:
    """Return the annotation of the items of a list, or of the values of a mapping; None = no such."""
    kinds = (list, tuple) if kind is list else (kind,)
    allowed = bare_types(hint)
    match = next((each for each in allowed if typing.get_origin(each) in kinds), None)
    return typing.get_args(match)[-1] if match else Any if Any in allowed else None


def tuple_length(hint: Any) -> int | None:
    """Return the length of the tuple that an annotation asks for; None where it asks for none."""
    return next((len(typing.get_args(h)) for h in bare_types(hint) if typing.get_origin(h) is tuple), None)


def item_at(hint: Any, key: str | int) -> Any:
    """Return the annotation of what a key or a number leads to; None where nothing may stand."""
    part = recipe_class(hint)
    if part is not None and isinstance(key, str):
        return fields_of(part).get(key)
    return items_of(hint, list if isinstance(key, int) else dict)


def hint_at(cls: type, place: Place) -> Any:
    """Return the annotation at a place of a recipe; None where nothing may stand."""
    return functools.reduce(item_at, place, cls)


def default_at(cls: type, place: Place) -> Any:
    """Return the default at a place, None where there is none."""
    part = recipe_class(hint_at(cls, place[:-1]))
    field = {f.name: f for f in dataclasses.fields(part)}.get(str(place[-1])) if part else None
    if field is None:
        return None
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def required(cls: type) -> list[str]:
    """Return the keys of a class that have no default."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def keys_of(cls: type, prefix: str = "") -> list[str]:
    """Return every key below a recipe class by its dotted name."""
    keys = []
    for name, hint in fields_of(cls).items():
        keys.append(prefix + name)
        if part := recipe_class(hint) or listed_class(hint):
            keys += keys_of(part, f"{prefix}{name}.")
    return keys


def choices(hint: Any) -> list[Any]:
    """Return the values that an annotation lists one by one."""
    literals = (each for each in bare_types(hint) if typing.get_origin(each) is Literal)
    return [value for each in literals for value in typing.get_args(each)]


def type_words(hint: Any) -> str:
    """Write an annotation as a recipe's reader knows it: "a number or null"."""
    words = []
    for marked, each in zip(alternatives(hint), bare_types(hint), strict=True):
        origin, args = typing.get_origin(each), typing.get_args(each)
        if origin is Literal:
            words += [str(value) for value in args]
        elif origin is tuple:
            words.append(f"a list of {len(args)} {MANY.get(args[0], 'values')}")
        elif origin is list:
            many = "mappings" if recipe_class(args[0]) else MANY.get(bare_types(args[0])[0], "values")
            words.append(f"a list of {many}")
        elif origin is dict:
            words.append("a mapping of names to " + (type_words(args[1]) if args[1] is not Any else "values"))
        elif dataclasses.is_dataclass(each):
            words.append("a mapping of keys to values")
        elif kind := path_kind(marked):
            words.append("a name or a path" if kind is PathKind.NAME_OR_PATH else "a path")
        else:
            words.append(WORDS.get(each, "any value"))
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
