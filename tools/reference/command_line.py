"""reference/command_line.md: the help of every verb, the exit codes, and the variables that are read."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import escape
import yaml
from settings import RECIPES

from fmriscale import cli
from fmriscale.common import errors
from fmriscale.config.examples import ending_of

ROOT = Path(__file__).resolve().parents[2]
TEXTS = yaml.safe_load((Path(__file__).parent / "texts" / "command_line.yaml").read_text())
READ = re.compile(r"env\w*(?:\.get|\.setdefault)?[\[(]f?\"([A-Z_]+)(\{name\})?\"")


def pages() -> dict[str, str]:
    """Return the page by its name."""
    lines = [
        "# Command line and exit codes",
        "",
        escape.BANNER,
        "Every verb has `--help`. A verb that reads a recipe takes every key of it as an option, too: "
        "`--train.lr 1e-4`. In the texts below, the keys are left out; [settings](settings.md) has them.",
        "",
        "```text",
        re.sub(r"^fmriscale [\d.]+", "fmriscale", cli.usage().rstrip()),
        "```",
    ]
    for verb in cli.VERBS:
        lines += ["", *_verb(verb)]
    lines += ["", *_exit_codes(), "", *_variables()]
    return {"reference/command_line.md": "\n".join(lines) + "\n"}


def _verb(verb: str) -> Iterator[str]:
    yield from (f"## `fmriscale {verb}`", "")
    about = cli.VERBS[verb][1]
    yield escape.text(about[0].upper() + about[1:]) + "."
    if verb in {recipe.verb for recipe in RECIPES}:
        yield f"[All its settings](settings/{verb}.md)."
    elif verb == "plan":
        yield "Its other options are [the settings of `pretrain`](settings/pretrain.md)."
    yield from ("", "```text", without_keys(help_of(verb), verb), "```")


def help_of(verb: str) -> str:
    """Return what `fmriscale VERB --help` prints."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.run([verb, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def without_keys(text: str, verb: str) -> str:
    """Leave out the keys of the recipe: what stands between their heading and the examples."""
    before, found, after = text.partition("\nKeys of the recipe;")
    ending = ending_of(verb).strip()
    if not found:
        return text
    assert after.endswith(ending), f"the help of {verb} does not end with its examples"
    return f"{before}\nKeys of the recipe: see its settings\n\n{ending}"


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "Batch scripts may rely on them.", "")
    yield from ("| code | meaning | what to do |", "|---|---|---|")
    for name, text in TEXTS["codes"].items():
        yield f"| {getattr(errors, name)} | {text['meaning']} | {text['remedy']} |"


def _variables() -> Iterator[str]:
    yield from ("## Environment variables", "", "| variable | meaning |", "|---|---|")
    for entry in TEXTS["variables"]:
        shown = ", ".join(name if name == "..." else f"`{name}`" for name in entry["names"])
        yield f"| {shown} | {entry['meaning']} |"


def variables_read() -> set[str]:
    """Return the names of the environment variables that the source reads."""
    found = set()
    for path in sorted((ROOT / "fmriscale").rglob("*.py")):
        source = path.read_text()
        for name, is_prefix in READ.findall(source):
            found |= {f"{name}{end}" for end in ("ID", "MIN", "MAX", "COUNT")} if is_prefix else {name}
        found |= set(re.findall(r"\"(FMRISCALE_[A-Z]+)\"", source))
    return found
