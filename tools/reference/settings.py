"""reference/settings.md and a page for each recipe, from the dataclasses of `fmriscale/config`."""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import NamedTuple

import escape

from fmriscale import config
from fmriscale.config.describe import documentation
from fmriscale.config.paths import RULE
from fmriscale.config.settings import fields_of, listed_class, recipe_class, required, type_words


class Recipe(NamedTuple):
    """The recipe of a verb."""

    verb: str
    cls: type
    example: str
    """A recipe of the repository to start from."""


RECIPES = (
    Recipe("shard", config.CorpusConfig, "corpus_haxby.yaml"),
    Recipe("pretrain", config.PretrainConfig, "pretrain_haxby.yaml"),
    Recipe("finetune", config.StudyConfig, "haxby.yaml"),
    Recipe("probe", config.ProbeConfig, "probe_abide_diagnosis.yaml"),
    Recipe("simulate", config.SimulateConfig, "simulate_timbre.yaml"),
)


class Part(NamedTuple):
    """A mapping of a recipe: the whole, or what stands under one key."""

    dotted: str
    """Key that it stands under; "" = the whole recipe."""
    cls: type
    listed: bool
    """Whether it is the entry of a list."""


def pages() -> dict[str, str]:
    """Return the pages by name."""
    made = {f"reference/settings/{recipe.verb}.md": _page(recipe) for recipe in RECIPES}
    return {"reference/settings.md": _index(), **made}


def parts_of(cls: type, dotted: str = "", listed: bool = False) -> Iterator[Part]:
    """Yield a recipe and every mapping in it, in the order of their keys."""
    yield Part(dotted, cls, listed)
    for name, hint in fields_of(cls).items():
        below = f"{dotted}.{name}" if dotted else name
        if part := listed_class(hint):
            yield from parts_of(part, below, True)
        elif part := recipe_class(hint):
            yield from parts_of(part, below)


def keys_of(part: Part) -> Iterator[tuple[str, dataclasses.Field]]:
    """Yield the keys of a part that hold a value, by their dotted names, with their fields."""
    for field in dataclasses.fields(part.cls):
        if not recipe_class(fields_of(part.cls)[field.name]):
            yield f"{part.dotted}.{field.name}" if part.dotted else field.name, field


def _page(recipe: Recipe) -> str:
    lines = [
        f"# Settings of `fmriscale {recipe.verb}`",
        "",
        escape.BANNER,
        escape.text(inspect.cleandoc(recipe.cls.__doc__ or "")),
        "",
        f"A recipe to start from: [configs/{recipe.example}](../../../configs/{recipe.example}).",
        f"Every key is an option too: `fmriscale {recipe.verb} --config FILE {_option(recipe.cls)}`; a list",
        "or mapping is written as YAML. [All settings](../settings.md) are listed on one page.",
    ]
    for part in parts_of(recipe.cls):
        lines += _section(part)
    return "\n".join(lines).rstrip() + "\n"


def _option(cls: type) -> str:
    """Return an example of an option."""
    return "--train.lr 1e-4" if "train" in fields_of(cls) else "--out FOLDER"


def _section(part: Part) -> Iterator[str]:
    title = f"`{part.dotted}`" if part.dotted else "Keys of the recipe itself"
    yield from (f'<a id="{part.dotted or "top"}"></a>', "", f"## {title}", "")
    if part.dotted:
        about = escape.text(" ".join(inspect.cleandoc(part.cls.__doc__ or "").split()))
        yield about + (" These are the keys of each entry of the list." if part.listed else "")
        yield ""
    texts, hints, needed = documentation(part.cls), fields_of(part.cls), required(part.cls)
    for dotted, field in keys_of(part):
        if listed_class(hints[field.name]):
            about = f"{escape.text(texts[field.name])} The keys of an entry are [below](#{dotted})."
            yield from (f"### `{dotted}` (list)", "", about, "")
        else:
            yield from (
                f'<a id="{dotted}"></a>',
                "",
                f"### `{dotted}`",
                "",
                escape.text(texts[field.name]),
                "",
            )
        default = "required" if field.name in needed else f"default `{_default(field)}`"
        yield from (f"*{escape.text(type_words(hints[field.name]))}; {default}*", "")


def _default(field: dataclasses.Field) -> str:
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    return value if isinstance(value, str) and value else json.dumps(value)


def _index() -> str:
    lines = [
        "# All settings",
        "",
        escape.BANNER,
        "A recipe is a YAML file that a verb reads (`--config FILE`). Its keys are typed: a key that does",
        "not exist, or a value of another type, is refused by name and line. `fmriscale VERB --help`",
        "prints the same texts, `--print_config` the recipe with all its defaults, and `--print_schema` a",
        "JSON Schema for editors.",
        "",
        RULE,
    ]
    for recipe in RECIPES:
        page = f"settings/{recipe.verb}.md"
        lines += ["", f"## [`fmriscale {recipe.verb}`]({page})", ""]
        for part in parts_of(recipe.cls):
            anchor = part.dotted or "top"
            keys = ", ".join(f"[{field.name}]({page}#{dotted})" for dotted, field in keys_of(part))
            title = f"`{part.dotted}`" if part.dotted else "the recipe itself"
            lines.append(f"* [{title}]({page}#{anchor}): {keys}")
    return "\n".join(lines) + "\n"
