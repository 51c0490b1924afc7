"""The types of settings, as the dataclasses of `config/` annotate them: what may stand where, in words."""

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Literal, Union

from fmriscale.config.settings import PathKind

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
PATHS = {
    PathKind.PATH: "a path",
    PathKind.NAME_OR_PATH: "a name or a path",
    PathKind.TEMPLATE: "a path",
}
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


def bare(hint: Any) -> Any:
    """Return an annotation without its marker."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def path_kind(hint: Any) -> PathKind | None:
    """Return how a text of this annotation names files; None where it does not."""
    for each in alternatives(hint):
        for marker in getattr(each, "__metadata__", ()):
            if isinstance(marker, PathKind):
                return marker
    return None


def recipe_class(hint: Any) -> type | None:
    """Return the dataclass that an annotation allows."""
    kinds = map(bare, alternatives(hint))
    return next((k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def listed_class(hint: Any) -> type | None:
    """Return the dataclass whose instances a list holds."""
    return recipe_class(items_of(hint, list))


def items_of(hint: Any, kind: type) -> Any:
    """Return the annotation of the items of a list, or of the values of a mapping; None = no such."""
    kinds = (list, tuple) if kind is list else (kind,)
    allowed = [bare(each) for each in alternatives(hint)]
    found = next((each for each in allowed if typing.get_origin(each) in kinds), None)
    return typing.get_args(found)[-1] if found else Any if Any in allowed else None


def item_at(hint: Any, key: str | int) -> Any:
    """Return the annotation of what a key or a number leads to; None where nothing may stand."""
    part = recipe_class(hint)
    if part is not None and isinstance(key, str):
        return fields_of(part).get(key)
    return items_of(hint, list if isinstance(key, int) else dict)


def hint_at(cls: type, place: tuple[str | int, ...]) -> Any:
    """Return the annotation at a place of a recipe; None where nothing may stand."""
    return functools.reduce(item_at, place, cls)


def default_of(cls: type, place: tuple[str | int, ...]) -> Any:
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


def keys_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Return every key below a recipe class under its dotted name, with its annotation."""
    found = {}
    for name, hint in fields_of(cls).items():
        found[prefix + name] = hint
        if part := recipe_class(hint) or listed_class(hint):
            found |= keys_of(part, f"{prefix}{name}.")
    return found


def choices(hint: Any) -> list[Any]:
    """Return the values that an annotation lists one by one."""
    kinds = map(bare, alternatives(hint))
    return [v for each in kinds if typing.get_origin(each) is Literal for v in typing.get_args(each)]


def type_words(hint: Any) -> str:
    """Write an annotation as a recipe's reader knows it: "a number or null"."""
    told = []
    for marked in alternatives(hint):
        each = bare(marked)
        origin, args = typing.get_origin(each), typing.get_args(each)
        if origin is Literal:
            told += [str(value) for value in args]
        elif origin is tuple:
            told.append(f"a list of {len(args)} {MANY.get(args[0], 'values')}")
        elif origin is list:
            many = "mappings" if recipe_class(args[0]) else MANY.get(bare(args[0]), "values")
            told.append(f"a list of {many}")
        elif origin is dict:
            told.append("a mapping of names to " + (type_words(args[1]) if args[1] is not Any else "values"))
        elif dataclasses.is_dataclass(each):
            told.append("a mapping of keys to values")
        else:
            kind = path_kind(marked)
            told.append(PATHS[kind] if kind else WORDS.get(each, "any value"))
    *first, last = told
    return f"{', '.join(first)} or {last}" if first else last
