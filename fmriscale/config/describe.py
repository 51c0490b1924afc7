"""`--help`, `--KEY.help`, `--print_schema`: what a recipe may hold, from the dataclasses and docstrings."""

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from fmriscale.common.console import QUIET, QUIET_HELP
from fmriscale.common.errors import UserError
from fmriscale.config.check import HELP
from fmriscale.config.examples import ending_of
from fmriscale.config.paths import RULE
from fmriscale.config.settings import fields_of, hint_at, listed_class, recipe_class, type_words

WIDTH = 100


def show(cls: type, wanted: set[str], prog: str) -> str:
    """Return what the printing options of a command line ask for."""
    if "--help" in wanted:
        return help_of(cls, prog)
    if "--print_schema" in wanted:
        return json.dumps(schema(cls), indent=1)
    dotted = min(wanted).removeprefix("--").removesuffix(".help")
    hint = hint_at(cls, tuple(dotted.split(".")))
    if (part := recipe_class(hint) or listed_class(hint)) is None:
        raise UserError(f"--{dotted}.help: {dotted} has no keys of its own {HELP}")
    return "\n".join([(part.__doc__ or "").strip(), "", *_keys(part, "" if listed_class(hint) else dotted)])


def help_of(cls: type, prog: str) -> str:
    """Return the help on a recipe: every key with its type, default and meaning."""
    lines = [f"usage: {prog} --config FILE [--KEY VALUE ...]", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    for option, text in (
        ("-h, --help", "Show this and exit; --KEY.help shows the keys below one key."),
        (", ".join(QUIET), f"{QUIET_HELP[0].upper()}{QUIET_HELP[1:]}."),
        ("--config FILE", "YAML recipe; later options override it."),
        ("--print_config", "Print the recipe with all defaults and options, and exit."),
        ("--print_schema", "Print the JSON Schema of the recipe, for completion in editors, and exit."),
    ):
        lines += _entry(option, text)
    lines += ["", *textwrap.wrap(RULE, WIDTH)]
    lines += ["", "Keys of the recipe; each is an option too (--split.val 0.2; a list or mapping as YAML;"]
    lines += ["--KEY+ VALUE appends to a list):", "", *_keys(cls, "")]
    lines += ["", ending] if (ending := ending_of(prog)) else []
    return "\n".join(lines)


def _keys(cls: Any, prefix: str) -> Iterator[str]:
    """Yield lines on the keys of a class; those of its parts after its own."""
    parts = []
    for field in dataclasses.fields(cls):
        name, hint = field.name, fields_of(cls)[field.name]
        dotted = f"{prefix}.{name}" if prefix else name
        if part := recipe_class(hint) or listed_class(hint):
            parts.append((dotted, part, listed_class(hint)))
        if recipe_class(hint):
            continue
        yield from _entry(dotted, f"{documentation(cls)[name]} ({type_words(hint)}; {_default(field)})")
    for dotted, part, listed in parts:
        about = inspect.cleandoc(part.__doc__ or "").replace("\n", " ")
        yield from ("", f"{dotted}{' (keys of each entry)' if listed else ''}: {about}", "")
        yield from _keys(part, "" if listed else dotted)


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"default {json.dumps(field.default_factory())}"
    if field.default is dataclasses.MISSING:
        return "required"
    return f"default {json.dumps(field.default)}".replace('"', "")


def _entry(name: str, text: str) -> list[str]:
    """Lay out one key and what it means."""
    indent = " " * 26
    lines = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    if len(name) > 22:
        return [f"  {name}", *lines]
    return [f"  {name:<24}{lines[0].strip()}", *lines[1:]]


@functools.cache
def documentation(cls: type) -> dict[str, str]:
    """Return the docstring of each key of a class, inherited ones too, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    parents = (base for base in cls.__bases__ if dataclasses.is_dataclass(base))
    texts = {key: text for base in parents for key, text in documentation(base).items()}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts


def schema(cls: type) -> dict[str, Any]:
    """Return the JSON Schema of a recipe, with the docstrings as descriptions."""
    import pydantic

    made = pydantic.TypeAdapter(cls).json_schema()
    classes: dict[str, Any] = {part.__name__: part for part in (cls, *_parts(cls))}
    for name, content in ((cls.__name__, made), *made.get("$defs", {}).items()):
        part = classes[name]
        content["description"] = inspect.cleandoc(part.__doc__ or "")
        for field in dataclasses.fields(part):
            entry, is_part = content["properties"][field.name], recipe_class(fields_of(part)[field.name])
            entry["description"] = documentation(part)[field.name]
            if not is_part and field.default_factory is not dataclasses.MISSING:
                entry["default"] = field.default_factory()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _parts(cls: type) -> Iterator[type]:
    """Yield the classes of all parts of a recipe."""
    for hint in fields_of(cls).values():
        if part := recipe_class(hint) or listed_class(hint):
            yield part
            yield from _parts(part)
