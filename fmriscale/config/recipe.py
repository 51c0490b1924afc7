"""From a YAML recipe and a command line to a configuration, and back.

The dataclasses of `config/` say what a recipe may hold. pydantic holds a recipe against them; every mistake
is told at once, with its line. Modules: `document` (YAML, and where each value comes from), `options` (the
command line), `check` (types and rules), `paths`, `describe` (`--help`, `--print_schema`), `hints`.
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
from fmriscale.config.check import fill, mistake_at
from fmriscale.config.document import Document, Mistake, Place, dump
from fmriscale.config.hints import fields_of
from fmriscale.config.options import assemble, take_apart
from fmriscale.config.paths import map_paths, seen_from

Config = TypeVar("Config")


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
    line = take_apart(list(sys.argv[1:] if args is None else args))
    if line.shows - {"--print_config"}:
        from fmriscale.config.describe import show

        print(show(cls, line.shows, prog))
        sys.exit(0)
    document, files = assemble(cls, line.options, prog)
    _of_this_verb(cls, document, files, prog)
    config, mistakes = fill(cls, document)
    if config is not None:
        mistakes = [mistake_at(cls, document, place, text) for place, text in mistakes_of(config)]
    if mistakes := [*document.mistakes, *mistakes]:
        raise UserError(_told(mistakes, files))
    if line.shows:
        print(dump(to_dict(config)), end="")
        sys.exit(0)
    return typing.cast(Config, config)


def _of_this_verb(cls: type, document: Document, files: list[str], prog: str) -> None:
    """Refuse a recipe of another verb."""
    given = {place[0]: origin for place, origin in document.origins.items() if len(place) == 1}
    keys = {key for key, origin in given.items() if origin.file}
    if keys <= set(fields_of(cls)):
        return
    for other in (CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig):
        if keys <= set(fields_of(other)):
            verb = (other.__doc__ or "").split("`")[1]  # the docstring of a recipe's class starts with it
            raise UserError(f"{files[-1]}: a recipe of {verb}, not of {prog}")


def _told(mistakes: list[Mistake], files: list[str]) -> str:
    """Write mistakes down, one a line, in the order of the file's lines; what repeats is told once."""
    entries: dict[tuple[Any, str], list[str]] = {}
    for mistake in mistakes:
        entries.setdefault((mistake.origin, mistake.text), []).append(mistake.entry)
    told = []
    for (origin, text), places in entries.items():
        first, *others = dict.fromkeys(places)
        told.append(Mistake(origin, text, first + (f" and {len(others)} more" if others else "")))
    told.sort(key=lambda mistake: mistake.origin.line if mistake.origin else 0)
    lines = [mistake.line() for mistake in told]
    if not files:
        lines[-1] += "; give a recipe: --config FILE"
    return "\n".join(lines)


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
    atomic_write(path, dump(map_paths(config, seen_from(path.parent))))
