"""From a YAML recipe and a command line to a configuration, and back.

jsonargparse makes file, dotted overrides, `--help` and `--print_config` from the dataclasses of `config.py`.
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fmriscale import config as definitions
from fmriscale.errors import UserError
from fmriscale.files import atomic_write

Config = TypeVar("Config")


class CommandLine(argparse.ArgumentParser):
    """Options of a verb without a recipe; mistakes are told like any other, on one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how the verb is used."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")


def parse(cls: type[Config], args: list[str] | None = None, prog: str = "fmriscale") -> Config:
    """Build a configuration from `--config FILE` and dotted overrides.

    Parameters
    ----------
    cls : type
        One of the recipe dataclasses of `config.py`.
    args : list of str, optional
        Command line without the program's name; None = `sys.argv[1:]`. `--local_rank=N`, which the
        DeepSpeed launcher puts first, is accepted and ignored (the rank is read from the environment).
    prog : str
        Name shown in `--help` and in errors.

    Returns
    -------
    Config
        An instance of `cls`.

    Raises
    ------
    UserError
        An unknown key, a value of the wrong type or out of range, a file that is not there.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    args = list(sys.argv[1:] if args is None else args)
    args = [a for a in args if not a.startswith(("--local_rank=", "--local-rank="))]
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=(cls.__doc__ or "").strip(), exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; later options override it.")
    parser.add_class_arguments(cls, as_group=False)
    try:
        parsed = parser.parse_args(args)
        for file in parsed.config or ():
            _refuse_empty_unknown(cls, Path(file))
        values = vars(parser.instantiate(parsed))
        return cls(**{k: v for k, v in values.items() if k != "config"})
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(_explain(str(error), parser)) from error


def _refuse_empty_unknown(cls: type, file: Path) -> None:
    """Refuse an unknown key that holds an empty mapping: the parser drops it without a word."""
    import yaml

    for key, known in _empty_unknown(cls, yaml.safe_load(file.read_text())):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        meant = f". Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{file}: Option '{key}' is not accepted{meant} (--help lists every key)")


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


def _explain(message: str, parser: Any) -> str:
    """Put a parser's message on one line, in plain words, with the nearest known key for an unknown one."""
    line = " ".join(message.split())
    line = re.sub(r"Parser key \"([\w.]+)\": Problem with given class_path '[\w.]+': ", r"\1: ", line)
    line = re.sub(r"<class '(\w+)'>|typing\.", lambda found: found[1] or "", line)
    must = r"\1 is '\3'; it must be \2"
    line = re.sub(r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.*)', must, line)
    line = re.sub(r'Parser key "(.+?)": Does not .*Subtypes: \[(.+)\] Errors:.*Given value: (.*)', must, line)
    for pattern in (
        r"Group '(.+?)' does not accept option '(.+?)'",
        r"(?:Option '|arguments: --)()([\w.-]+)",
    ):
        if unknown := re.search(pattern, line):
            key = ".".join(filter(None, unknown.groups()))
            line += f". Did you mean '{near}'?" if (near := _nearest(key, parser)) else ""
            break
    return f"{line} (--help lists every key)"


def _nearest(key: str, parser: Any) -> str | None:
    """Return the known dotted key, or else the known field name, that is most like an unknown key."""
    dotted = [action.dest for action in parser._actions if "." in action.dest or "." not in key]
    recipes = [c for c in vars(definitions).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    names = {f.name for recipe in recipes for f in dataclasses.fields(recipe)}
    for like, known in ((key, dotted), (key.rpartition(".")[2], sorted(names))):
        if near := difflib.get_close_matches(like, known, n=1, cutoff=0.7):
            return near[0]
    return None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain nested dictionaries, ready for JSON or YAML."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries under dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in nested.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        leaves |= inner
    return leaves


def config_hash(config: Any) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of the resolved configuration."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically; it can be given back as `--config`."""
    import yaml

    atomic_write(path, yaml.safe_dump(to_dict(config), sort_keys=False))
