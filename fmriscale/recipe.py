"""From a YAML recipe and a command line to a configuration, and back.

jsonargparse makes file, dotted overrides, `--help` and `--print_config` from the dataclasses of `config/`.
"""

import argparse
import dataclasses
import difflib
import hashlib
import itertools
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fmriscale import config as definitions
from fmriscale.errors import UserError
from fmriscale.files import atomic_write
from fmriscale.recipe_file import read_recipe_file

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
        One of the recipe dataclasses of `config/`.
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
    args = list(sys.argv[1:] if args is None else args)
    args = [a for a in args if not a.startswith(("--local_rank=", "--local-rank="))]
    files = {file: read_recipe_file(cls, file, prog) for file in _config_files(args)}
    parser = _parser(cls, prog)
    try:
        return _beside(_fill(cls, parser, args), list(files))
    except UserError as refusal:
        for file, given in files.items():
            _refuse_entry(cls, file, given)
            try:
                _fill(cls, parser, ["--config", file])
            except UserError as alone:
                if str(alone) == str(refusal):  # the file is at fault, no override
                    raise UserError(f"{file}: {refusal}") from refusal
        if not files and "are required" in str(refusal):
            raise UserError(f"{refusal}; give a recipe: --config FILE") from refusal
        raise


def _config_files(args: list[str]) -> list[str]:
    """Return what --config is given."""
    apart = [file for option, file in itertools.pairwise(args) if option == "--config"]
    return apart + [a.partition("=")[2] for a in args if a.startswith("--config=")]


def _beside(config: Config, files: list[str]) -> Config:
    """Fill in {recipe}, the folder of the recipe file, where events are looked for."""
    if not files or not isinstance(config, definitions.CorpusConfig):
        return config
    folder = str(Path(files[-1]).absolute().parent).replace("{", "{{").replace("}", "}}")
    datasets = [
        dataclasses.replace(dataset, events=dataset.events and dataset.events.replace("{recipe}", folder))
        for dataset in config.datasets
    ]
    return dataclasses.replace(config, datasets=datasets)


def _parser(cls: type, prog: str) -> Any:
    """Return a parser of a recipe class, or of one entry of a recipe's list."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=(cls.__doc__ or "").strip(), exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; later options override it.")
    parser.add_class_arguments(cls, as_group=False)
    return parser


def _fill(cls: type[Config], parser: Any, given: list[str] | dict[str, Any]) -> Config:
    """Make an instance of a class from a command line, or from a mapping.

    Raises
    ------
    UserError
        What the parser or the class refuses, in one line.
    """
    import jsonargparse

    try:
        parsed = parser.parse_object(given) if isinstance(given, dict) else parser.parse_args(given)
        values = vars(parser.instantiate(parsed))
        return cls(**{k: v for k, v in values.items() if k != "config"})
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(_explain(str(error), parser)) from error


def _refuse_entry(cls: type, file: str, given: dict[str, Any]) -> None:
    """Refuse the entry of a recipe's list that is wrong, by number and name: the parser names the list."""
    hints = typing.get_type_hints(cls)
    for key in given:
        inner = [c for c in typing.get_args(hints.get(key)) if dataclasses.is_dataclass(c)]
        if not inner or not isinstance(given[key], list):
            continue
        parser = _parser(typing.cast(type, inner[0]), "")
        for number, entry in enumerate(given[key]):
            name = f" '{entry['name']}'" if isinstance(entry, dict) and "name" in entry else ""
            where = f"{file}: {key}[{number}]{name}"
            if not isinstance(entry, dict):
                raise UserError(f"{where}: '{_short(str(entry))}' is no mapping of keys to values")
            if higher := sorted((set(entry) - set(typing.get_type_hints(inner[0]))) & set(hints)):
                raise UserError(f"{where}: '{higher[0]}' is a key of the recipe itself; move it out of {key}")
            try:
                _fill(typing.cast(type, inner[0]), parser, entry)
            except UserError as refusal:
                raise UserError(f"{where}: {refusal}") from refusal


def _explain(message: str, parser: Any) -> str:
    """Put a parser's message on one line, in plain words, with the nearest known key for an unknown one."""
    line = " ".join(message.split())
    line = re.sub(r"Parser key \"([\w.]+)\": Problem with given class_path '[\w.]+': ", r"\1: ", line)
    line = re.sub(r"<class '(\w+)'>|typing\.", lambda found: found[1] or "", line)
    for pattern in (
        r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.*)',
        r'Parser key "(.+?)": Does not .*Subtypes: \[(.+)\] Errors:.*Given value: (.*)',
    ):
        if wrong := re.fullmatch(pattern, line):
            line = f"{wrong[1]} is '{_short(wrong[3])}'; it must be {_type_words(wrong[2])}"
    for pattern in (
        r"Group '(.+?)' does not accept option '(.+?)'",
        r"(?:Option '|arguments: --)()([\w.-]+)",
    ):
        if unknown := re.search(pattern, line):
            key = ".".join(filter(None, unknown.groups()))
            line += f". Did you mean '{near}'?" if (near := _nearest(key, parser)) else ""
            break
    loose = re.search(r"unrecognized arguments: (\S+\.ya?ml)\b", line)
    line += f". A recipe is given as --config {loose[1]}" if loose else ""
    return f"{line} (--help lists every key)"


def _type_words(types: str) -> str:
    """Write types as a recipe's reader knows them: "Literal['a'], NoneType" is "a or null"."""
    words = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), types)
    *first, last = words.replace("NoneType", "null").split(", ")
    return f"{', '.join(first)} or {last}" if first else last


def _short(value: str) -> str:
    """Cut a long value."""
    return value if len(value) <= 60 else f"{value[:57]}..."


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
