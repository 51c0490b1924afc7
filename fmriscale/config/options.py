"""The command line of a verb with a recipe: files and dotted options, in the order they are given."""

import dataclasses
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.config.check import HELP, nearest
from fmriscale.config.document import (
    Document,
    Mistake,
    Origin,
    Part,
    Place,
    plain_text,
    read_file,
    read_option,
    tree_of,
)
from fmriscale.config.hints import (
    alternatives,
    bare,
    default_of,
    hint_at,
    items_of,
    listed_class,
    recipe_class,
)

LAUNCHER = ("--local_rank=", "--local-rank=")
"""What the DeepSpeed launcher puts first; the rank is read from the environment."""
SHOWS = ("--print_config", "--print_schema")
"""Options that print something, and do nothing else."""


@dataclasses.dataclass
class Line:
    """A command line, taken apart."""

    options: list[tuple[str, str]]
    """Name, with its dashes, and value."""
    shows: set[str]
    """Which of `SHOWS`, `--help` and `--KEY.help` are there."""


def take_apart(args: list[str]) -> Line:
    """Take a command line apart."""
    line, words = Line([], set()), [a for a in args if not a.startswith(LAUNCHER)]
    while words:
        word = words.pop(0)
        if word in ("-h", "--help", *SHOWS) or (word.startswith("--") and word.endswith(".help")):
            line.shows.add("--help" if word == "-h" else word)
        elif not word.startswith("--"):
            remedy = f"a recipe is given as --config {word}" if word.endswith((".yaml", ".yml")) else HELP
            raise UserError(f"'{word}' belongs to no option; {remedy}")
        else:
            name, given, value = word.partition("=")
            if not given and (not words or words[0].startswith("--")):
                raise UserError(f"{name} has no value; give one {HELP}")
            line.options.append((name, value if given else words.pop(0)))
    return line


def assemble(cls: type, options: list[tuple[str, str]], prog: str) -> tuple[Document, list[str]]:
    """Put a recipe together from its files and options; return it with the names of the files."""
    document, files = Document(), []
    for name, value in options:
        if name == "--config":
            part = read_file(value, prog)
            document.put((), part, lambda place: recipe_class(hint_at(cls, place)) is not None)
            document.mistakes += part.mistakes
            document.origins[()] = part.origins[()]
            files.append(value)
        else:
            _override(cls, document, name, value)
    return document, files


def _override(cls: type, document: Document, option: str, text: str) -> None:
    """Put the value of an option in its place; what has no place is a mistake."""
    dotted, appends = option.removeprefix("--").removesuffix("+"), option.endswith("+")
    place: Place = ()
    for key in dotted.split("."):
        hint = hint_at(cls, place)
        if listed_class(hint) and not recipe_class(hint):  # keys of a list are those of its last entry
            entries = document.at(place)
            place = (*place, max(len(entries) if isinstance(entries, list) else 0, 1) - 1)
            if not isinstance(entries, list) or not entries:
                told = (
                    f"{option}: there are no {place[-2]} yet; give them in a recipe, or with --{place[-2]}+"
                )
                document.mistakes.append(Mistake(None, told))
                return
        place = (*place, key)
        if hint_at(cls, place) is None:
            near = nearest(cls, place)
            meant = f"; did you mean '{near}'?" if near else ""
            document.mistakes.append(Mistake(None, f"{option} is no key of a recipe{meant} {HELP}"))
            return
    hint = hint_at(cls, place)
    if not appends:
        _keep_default(cls, document, place, option)
        part = _part(hint, option, text)
        document.put(place, part, lambda place: recipe_class(hint_at(cls, place)) is not None)
        document.mistakes += part.mistakes
        return
    if (inner := items_of(hint, list)) is None:
        document.mistakes.append(Mistake(None, f"{option}: {dotted} is no list; leave out the +"))
        return
    if not isinstance(document.at(place), list):
        document.put(place, Part(tree_of(default_of(cls, place) or []), {(): Origin(option=option)}, []), _no)
    part = _part(hint, option, text)
    many = isinstance(part.tree, list)
    items = part.tree if isinstance(part.tree, list) else [_part(inner, option, text).tree]
    for number, item in enumerate(items):
        there: Any = document.at(place)
        own = {p[1:]: o for p, o in part.origins.items() if p[:1] == (number,)} if many else part.origins
        document.put((*place, len(there)), Part(item, {(): Origin(option=option), **own}, []), _no)


def _no(_: Place) -> bool:
    return False


def _keep_default(cls: type, document: Document, place: Place, option: str) -> None:
    """Give a mapping its default before one name of it is set, so that the others stay."""
    above = place[:-1]
    if above and items_of(hint_at(cls, above), dict) is not None and document.at(above) is None:
        default = tree_of(default_of(cls, above) or {})
        document.put(above, Part(default, {(): Origin(option=option)}, []), _no)


def _part(hint: Any, option: str, text: str) -> Part:
    """Read the value of an option: as text where only scalars may stand, else as YAML."""
    allowed = [bare(each) for each in alternatives(hint)]
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
