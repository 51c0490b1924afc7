"""A recipe's YAML file, read strictly: what a parser would take in silence is refused, by file and line."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmriscale.config import CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig
from fmriscale.errors import UserError


def read_recipe_file(cls: type, file: str, prog: str) -> dict[str, Any]:
    """Return the content of a recipe file.

    Parameters
    ----------
    cls : type
        The recipe dataclass that it is to fill.
    file : str
        Its path.
    prog : str
        The command that reads it, for messages.

    Raises
    ------
    UserError
        No file, no text, no YAML, no mapping, a key that stands twice, a recipe for something else, or an
        unknown key that holds an empty mapping (which the parser drops without a word).
    """
    import yaml

    try:
        text = Path(file).read_text()
        repeated = _repeated(yaml.compose(text, Loader=yaml.SafeLoader))
        given = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}; give the path of a recipe") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {file}: not a text file; a recipe is YAML") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        what = " ".join(str(problem or error).split())
        raise UserError(f"{file}: {line}not YAML ({what}); mend it there or just above") from error
    if repeated is not None:
        key, line = repeated
        raise UserError(f"{file}: line {line}: '{key}' stands here a second time; keep one of them")
    if not isinstance(given, dict):
        what = "empty" if given is None else "no mapping of keys to values"
        raise UserError(f"{file}: {what}; {prog} needs a recipe (configs/ has examples)")
    if set(given) - set(typing.get_type_hints(cls)):
        for other in (CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig):
            if set(given) <= set(typing.get_type_hints(other)):
                raise UserError(f"{file}: a recipe of {_door(other)}, not of {prog}")
    for key, known in _empty_unknown(cls, given):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        meant = f". Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{file}: Option '{key}' is not accepted{meant} (--help lists every key)")
    return given


def _door(cls: type) -> str:
    """Return the command that a recipe is for: the docstring of its class starts with it."""
    return (cls.__doc__ or "").split("`")[1]


def _repeated(node: Any) -> tuple[str, int] | None:
    """Return a key that stands twice in one mapping of a YAML document, and the line of the second."""
    import yaml

    if not isinstance(node, yaml.CollectionNode):
        return None
    inner, seen = list(node.value), set[str]()
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if str(key.value) in seen:
                return str(key.value), key.start_mark.line + 1
            seen.add(str(key.value))
        inner = [value for _, value in node.value]
    return next((found for found in map(_repeated, inner) if found), None)


def _empty_unknown(cls: type, given: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield unknown keys of a recipe class that hold an empty mapping, with the keys it knows."""
    hints = typing.get_type_hints(cls)
    for key, value in given.items() if isinstance(given, dict) else ():
        if key not in hints and value == {}:
            yield f"{prefix}{key}", list(hints)
        inner = [c for c in (hints.get(key), *typing.get_args(hints.get(key))) if dataclasses.is_dataclass(c)]
        entries = value if isinstance(value, list) else [value]
        for recipe in inner:
            for number, entry in enumerate(entries):
                place = f"{prefix}{key}[{number}]." if isinstance(value, list) else f"{prefix}{key}."
                yield from _empty_unknown(typing.cast(type, recipe), entry, place)
