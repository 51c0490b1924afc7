"""From a YAML recipe and a command line to a configuration, and back; every mistake is told with its line.

`document` reads YAML, `check` types and rules, `describe` makes the help from the dataclasses of `config/`.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from fmriscale.common.console import QUIET, set_quiet
from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.common.trust import without_login
from fmriscale.config import CorpusConfig, PretrainConfig, ProbeConfig, SimulateConfig, StudyConfig
from fmriscale.config.check import HELP, Filler, nearest_key
from fmriscale.config.document import Mistake, Node, Origin, dump, node_of, plain_text, read_file, read_option
from fmriscale.config.paths import map_paths, seen_from
from fmriscale.config.settings import (
    Place,
    bare_types,
    default_at,
    fields_of,
    hint_at,
    item_at,
    items_of,
    listed_class,
    recipe_class,
)

Config = TypeVar("Config")

LAUNCHER = ("--local_rank=", "--local-rank=")
"""What the DeepSpeed launcher puts first; the rank is read from the environment."""
PRINTS = ("-h", "--help", "--print_config", "--print_schema")
"""Options that print something and do nothing else, as does --KEY.help."""


def parse(
    cls: type[Config],
    args: list[str] | None = None,
    prog: str = "fmriscale",
    mistakes_of: Callable[[Config], Iterable[tuple[Place, str]]] = lambda _: (),
) -> Config:
    """Build a configuration from a recipe and options, as the command line does.

    `--help`, `--KEY.help`, `--print_config` and `--print_schema` print, and end the process.

    Parameters
    ----------
    cls : type
        Class of the recipe, such as `fmriscale.config.PretrainConfig`.
    args : list of str, optional
        `--config FILE` and dotted overrides (`--train.lr 1e-4`); None = those of this process.
    prog : str
        Name in messages.
    mistakes_of : function
        Yields what else is wrong with a configuration: its place, and what with the remedy.

    Returns
    -------
    instance of cls
        Paths of the file as seen from the working directory.

    Raises
    ------
    UserError
        All mistakes at once, one a line, each with its file and line.

    Examples
    --------
    >>> from fmriscale.config import PretrainConfig
    >>> options = ["--data.corpus", "demo/corpus", "--out", "runs/try", "--train.lr", "1e-4"]
    >>> parse(PretrainConfig, options).train.lr
    0.0001
    """
    options, prints = _split(list(sys.argv[1:] if args is None else args))
    if prints - {"--print_config"}:
        from fmriscale.config.describe import show

        print(show(cls, prints, prog))
        sys.exit(0)
    draft, files = _Draft(cls), [value for name, value in options if name == "--config"]
    for name, value in options:
        if name == "--config":
            node, mistakes = read_file(value, prog)
            draft.mistakes += mistakes
            draft.root = _merge(draft.root, node, cls)
        else:
            draft.override(name, value)
    _check_verb(cls, draft.root, files, prog)
    filler = Filler(cls)
    config = filler.fill(draft.root)
    if not filler.mistakes:
        for place, text in mistakes_of(config):
            filler.note_at(draft.root, place, text)
    if mistakes := draft.mistakes + filler.mistakes:
        raise UserError(_listed(mistakes) + ("" if files else "; give a recipe: --config FILE"))
    if prints:
        print(dump(to_dict(config)), end="")
        sys.exit(0)
    return config


def _split(args: list[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the options of a command line with their values, and those that print something."""
    options, prints, words = [], set(), [a for a in args if not a.startswith(LAUNCHER)]
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if word in QUIET:
            set_quiet(True)
        elif word in PRINTS or (word.startswith("--") and word.endswith(".help")):
            prints.add("--help" if word == "-h" else word)
        elif not word.startswith("--"):
            remedy = f"a recipe is given as --config {word}" if word.endswith((".yaml", ".yml")) else HELP
            raise UserError(f"'{word}' belongs to no option; {remedy}")
        elif not has_value and (not words or words[0].startswith("--")):
            raise UserError(f"{name} has no value; give one {HELP}")
        else:
            options.append((name, value if has_value else words.pop(0)))
    return options, prints


class _Draft:
    """A recipe while it is put together from files and options."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.root = Node({}, None)
        self.mistakes: list[Mistake] = []

    def override(self, option: str, text: str) -> None:
        """Put the value of an option in its place; what has no place is a mistake."""
        place = self._place_of(option)
        if place is None:
            return
        hint, above, origin = hint_at(self.cls, place), place[:-1], Origin(option=option)
        if option.endswith("+"):
            self._append(place, option, text)
            return
        if above and items_of(hint_at(self.cls, above), dict) is not None and self._at(above) is None:
            # One name of a mapping is set: the others of its default stay.
            self._put(above, node_of(default_at(self.cls, above) or {}, origin))
        node, mistakes = _value(hint, option, text)
        self.mistakes += mistakes
        self._put(place, _merge(self._at(place), node, hint))

    def _place_of(self, option: str) -> Place | None:
        """Return the place that an option names."""
        place, scope, dotted = (), self.cls, ""
        for key in option.removeprefix("--").removesuffix("+").split("."):
            hint = hint_at(self.cls, place)
            if (part := listed_class(hint)) and not recipe_class(hint):  # keys of its last entry
                entries = self._at(place)
                if entries is None or not isinstance(entries.value, list) or not entries.value:
                    remedy = f"give them in a recipe, or with --{dotted}+"
                    self.mistakes.append(Mistake(None, f"{option}: there are no {dotted} yet; {remedy}"))
                    return None
                place, scope, dotted = (*place, len(entries.value) - 1), part, ""
            place, dotted = (*place, key), f"{dotted}.{key}" if dotted else key
            if hint_at(self.cls, place) is None:
                text = f"{option} is no key of a recipe{nearest_key(scope, dotted)} {HELP}"
                self.mistakes.append(Mistake(None, text))
                return None
        return place

    def _append(self, place: Place, option: str, text: str) -> None:
        """Append the value of an option, or each item of it, to a list."""
        hint, origin = hint_at(self.cls, place), Origin(option=option)
        inner = items_of(hint, list)
        if inner is None:
            key = option.removeprefix("--").removesuffix("+")
            self.mistakes.append(Mistake(None, f"{option}: {key} is no list; leave out the +"))
            return
        known = self._at(place)
        if known is None or not isinstance(known.value, list):
            known = node_of(default_at(self.cls, place) or [], origin)
        node, _ = _value(hint, option, text)
        items = node.value if isinstance(node.value, list) else [_value(inner, option, text)[0]]
        self._put(place, Node(known.value + items, known.origin))

    def _at(self, place: Place) -> Node | None:
        node: Node | None = self.root
        for key in place:
            node = node.child(key) if node else None
        return node

    def _put(self, place: Place, node: Node) -> None:
        """Put a node in its place; what should hold it and is none is made a mapping."""
        holder = self.root
        for key in place[:-1]:
            inner = holder.child(key)
            if inner is None or not isinstance(inner.value, dict | list):
                inner = holder.value[key] = Node({}, node.origin)
            holder = inner
        holder.value[place[-1]] = node


def _merge(old: Node | None, new: Node, hint: Any) -> Node:
    """Return what stands where `new` is given: of a part of a recipe, its other keys stay."""
    both = old is not None and isinstance(old.value, dict) and isinstance(new.value, dict)
    if old is None or not both or recipe_class(hint) is None:
        return new
    merged = {key: _merge(old.value.get(key), node, item_at(hint, key)) for key, node in new.value.items()}
    is_option = new.origin is not None and new.origin.option
    return Node(old.value | merged, old.origin if is_option else new.origin)


def _value(hint: Any, option: str, text: str) -> tuple[Node, list[Mistake]]:
    """Read the value of an option: as text where only scalars may stand, else as YAML."""
    allowed, plain = bare_types(hint), plain_text(option, text)
    holds = Any in allowed or any(items_of(hint, kind) is not None for kind in (list, dict))
    if not holds and recipe_class(hint) is None:
        return plain, []
    if str not in allowed:
        return read_option(option, text)
    try:
        node, mistakes = read_option(option, text)
    except UserError:
        return plain, []
    return (node, mistakes) if isinstance(node.value, list | dict) else (plain, [])


def _check_verb(cls: type, root: Node, files: list[str], prog: str) -> None:
    """Refuse a recipe of another verb."""
    keys = {key for key, node in root.value.items() if node.origin and node.origin.file}
    if keys <= set(fields_of(cls)):
        return
    for other in (CorpusConfig, PretrainConfig, SimulateConfig, StudyConfig, ProbeConfig):
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
    """Return a configuration as plain nested dictionaries, ready to be recorded: no URL has its login."""
    return _recorded(json.loads(json.dumps(dataclasses.asdict(config))))


def _recorded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _recorded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_recorded(item) for item in value]
    return without_login(value) if isinstance(value, str) and "://" in value else value


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
    atomic_write(path, dump(_recorded(map_paths(config, seen_from(path.parent)))))
