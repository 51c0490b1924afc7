"""From a YAML recipe and a command line to a configuration, and back.

The dataclasses of `config/` say what a recipe may hold. pydantic holds a recipe against them; every mistake
is told at once, with its line. Modules: `document` (YAML, and where each value comes from), `check` (types
and rules), `paths`, `describe` (`--help`, `--print_schema`), `settings` (what the dataclasses share).
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.config import CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig
from fmriscale.config.check import HELP, Checker, nearest
from fmriscale.config.document import (
    Document,
    Mistake,
    Origin,
    Part,
    dump,
    plain_text,
    read_file,
    read_option,
    tree_of,
)
from fmriscale.config.paths import map_paths, seen_from
from fmriscale.config.settings import (
    Place,
    bare_types,
    default_at,
    fields_of,
    hint_at,
    items_of,
    listed_class,
    recipe_class,
)

Config = TypeVar("Config")

LAUNCHER = ("--local_rank=", "--local-rank=")
"""What the DeepSpeed launcher puts first; the rank is read from the environment."""
PRINTS = ("-h", "--help", "--print_config", "--print_schema")
"""Options that print something and do nothing else, as does --KEY.help."""


class CommandLine(argparse.ArgumentParser):
    """Options of a verb without a recipe; mistakes are told like any other, on one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how the verb is used."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")


def parse(
    cls: type[Config],
    args: list[str] | None = None,
    prog: str = "fmriscale",
    mistakes_of: Callable[[Config], Iterable[tuple[Place, str]]] = lambda _: (),
) -> Config:
    """Build a configuration from `--config FILE` and dotted overrides.

    `--help`, `--KEY.help`, `--print_config` and `--print_schema` print, and end the process.
    """
    options, prints = _split(list(sys.argv[1:] if args is None else args))
    if prints - {"--print_config"}:
        from fmriscale.config.describe import show

        print(show(cls, prints, prog))
        sys.exit(0)
    document, files = Document(cls), [value for name, value in options if name == "--config"]
    for name, value in options:
        if name == "--config":
            part = read_file(value, prog)
            document.put((), part)
            document.mistakes += part.mistakes
            document.origins[()] = part.origins[()]
        else:
            _override(document, name, value)
    _check_verb(document, files, prog)
    checker = Checker(document)
    config, mistakes = checker.fill()
    if config is not None:
        mistakes = [checker.mistake(place, text) for place, text in mistakes_of(config)]
    if mistakes := [*document.mistakes, *mistakes]:
        raise UserError(_listed(mistakes) + ("" if files else "; give a recipe: --config FILE"))
    if prints:
        print(dump(to_dict(config)), end="")
        sys.exit(0)
    return typing.cast(Config, config)


def _split(args: list[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the options of a command line with their values, and those that print something."""
    options, prints, words = [], set(), [a for a in args if not a.startswith(LAUNCHER)]
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if word in PRINTS or (word.startswith("--") and word.endswith(".help")):
            prints.add("--help" if word == "-h" else word)
        elif not word.startswith("--"):
            remedy = f"a recipe is given as --config {word}" if word.endswith((".yaml", ".yml")) else HELP
            raise UserError(f"'{word}' belongs to no option; {remedy}")
        elif not has_value and (not words or words[0].startswith("--")):
            raise UserError(f"{name} has no value; give one {HELP}")
        else:
            options.append((name, value if has_value else words.pop(0)))
    return options, prints


def _override(document: Document, option: str, text: str) -> None:
    """Put the value of an option in its place; what has no place is a mistake."""
    place = _place_of(document, option)
    if isinstance(place, str):
        document.mistakes.append(Mistake(None, place))
    elif option.endswith("+"):
        _append(document, place, option, text)
    else:
        cls, above, origin = document.cls, place[:-1], Origin(option=option)
        if above and items_of(hint_at(cls, above), dict) is not None and document.at(above) is None:
            # One name of a mapping is set: the others of its default stay.
            document.put(above, Part(tree_of(default_at(cls, above) or {}), {(): origin}), merge=False)
        part = _value(hint_at(cls, place), option, text)
        document.put(place, part)
        document.mistakes += part.mistakes


def _place_of(document: Document, option: str) -> Place | str:
    """Return the place that an option names, or what is wrong with it."""
    cls, place = document.cls, ()
    for key in option.removeprefix("--").removesuffix("+").split("."):
        hint = hint_at(cls, place)
        if listed_class(hint) and not recipe_class(hint):  # keys of a list are those of its last entry
            entries = document.at(place)
            if not isinstance(entries, list) or not entries:
                return (
                    f"{option}: there are no {place[-1]} yet; give them in a recipe, or with --{place[-1]}+"
                )
            place = (*place, len(entries) - 1)
        place = (*place, key)
        if hint_at(cls, place) is None:
            near = nearest(cls, place)
            meant = f"; did you mean '{near}'?" if near else ""
            return f"{option} is no key of a recipe{meant} {HELP}"
    return place


def _append(document: Document, place: Place, option: str, text: str) -> None:
    """Append the value of an option, or each item of it, to a list."""
    hint, origin = hint_at(document.cls, place), Origin(option=option)
    inner = items_of(hint, list)
    if inner is None:
        dotted = option.removeprefix("--").removesuffix("+")
        document.mistakes.append(Mistake(None, f"{option}: {dotted} is no list; leave out the +"))
        return
    if not isinstance(document.at(place), list):
        default = tree_of(default_at(document.cls, place) or [])
        document.put(place, Part(default, {(): origin}), merge=False)
    part = _value(hint, option, text)
    if isinstance(part.tree, list):
        items = [part.below(number) for number in range(len(part.tree))]
    else:
        items = [_value(inner, option, text)]
    for item in items:
        entries: Any = document.at(place)
        document.put((*place, len(entries)), item, merge=False)


def _value(hint: Any, option: str, text: str) -> Part:
    """Read the value of an option: as text where only scalars may stand, else as YAML."""
    allowed = bare_types(hint)
    holds = Any in allowed or any(items_of(hint, kind) is not None for kind in (list, dict))
    if not holds and recipe_class(hint) is None:
        return plain_text(option, text)
    if str not in allowed:
        return read_option(option, text)
    try:
        part = read_option(option, text)
    except UserError:
        return plain_text(option, text)
    return part if isinstance(part.tree, list | dict) else plain_text(option, text)


def _check_verb(document: Document, files: list[str], prog: str) -> None:
    """Refuse a recipe of another verb."""
    keys = {place[0] for place, origin in document.origins.items() if len(place) == 1 and origin.file}
    if keys <= set(fields_of(document.cls)):
        return
    for other in (CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig):
        if keys <= set(fields_of(other)):
            verb = (other.__doc__ or "").split("`")[1]  # the docstring of a recipe's class starts with it
            raise UserError(f"{files[-1]}: a recipe of {verb}, not of {prog}")


def _listed(mistakes: list[Mistake]) -> str:
    """Write mistakes, one a line, in the order of the file's lines; those of several entries once."""
    entries: dict[tuple[Origin | None, str], list[str]] = {}
    for mistake in mistakes:
        entries.setdefault((mistake.origin, mistake.text), []).append(mistake.entry)
    merged = []
    for (origin, text), names in entries.items():
        first, *others = dict.fromkeys(names)
        merged.append(Mistake(origin, text, first + (f" and {len(others)} more" if others else "")))
    merged.sort(key=lambda mistake: mistake.origin.line if mistake.origin else 0)
    return "\n".join(map(str, merged))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain nested dictionaries, ready for JSON or YAML."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries under dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in nested.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def config_hash(config: Any) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of the resolved configuration."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically; it can be given back as `--config`."""
    atomic_write(path, dump(map_paths(config, seen_from(path.parent))))
