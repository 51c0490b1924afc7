"""`fmriscale completion bash|zsh|fish`: a script by which a shell completes verbs, options and values.

The script is static: it holds every option of every verb, from the parsers and the recipes' dataclasses, so
that a shell answers at once and starts no Python.
"""

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fmriscale.common.console import QUIET, QUIET_HELP
from fmriscale.common.errors import EXIT_OK
from fmriscale.config.command_line import CommandLine
from fmriscale.config.describe import documentation
from fmriscale.config.settings import bare_types, choices, fields_of, listed_class, path_kind, recipe_class

FLAG, FILE, VALUE = "flag", "file", "value"
NAMES_OF_FILES = ("FILE", "FOLDER", "RUN", "CORPUS", "hf://ORG/NAME", ("TOOL", "PLACE"))
"""Metavariables of options and arguments that are paths."""
TOOLS = {"--to": ("tensorboard", "wandb")}
"""Values that a parser does not list, as others may stand there too."""
WIDTH = 70
"""Characters of a description."""


class Option(NamedTuple):
    """An option of a verb."""

    name: str
    takes: str  # FLAG: nothing; FILE: a path; VALUE: anything else
    values: tuple[str, ...]  # What it may be, where that is known
    text: str


class Verb(NamedTuple):
    """A verb with its options."""

    name: str
    text: str
    options: list[Option]
    takes_files: bool  # Whether it has arguments that are paths
    values: tuple[str, ...]  # What its argument may be, where that is known


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    about = "A script that completes verbs, options and values on the command line."
    parser = CommandLine("fmriscale completion", description=about)
    parser.add_argument("shell", choices=list(SCRIPTS), help="the shell that reads the script")
    return parser


def main(args: list[str]) -> int:
    """Print the script."""
    given = parser_of_verb().parse_args(args)
    print(SCRIPTS[given.shell](all_verbs()), end="")
    return EXIT_OK


def all_verbs() -> list[Verb]:
    """Return every verb with its options."""
    from fmriscale.cli import VERBS

    verbs = []
    for name, (module, text) in VERBS.items():
        try:
            parser: CommandLine = importlib.import_module(module).parser_of_verb()
        except SystemExit:  # pre-training, where the system is not Linux
            continue
        verbs.append(verb_of(name, text, parser))
    return verbs


def verb_of(name: str, text: str, parser: CommandLine) -> Verb:
    """Return a verb from its parser."""
    arguments = [action for action in parser._actions if not action.option_strings]
    options = [_of_action(action) for action in parser._actions if action.option_strings]
    if parser.recipe:
        options += [
            Option("--help", FLAG, (), "show the help"),
            Option(QUIET[-1], FLAG, (), QUIET_HELP),
            Option("--config", FILE, (), "YAML recipe; later options override it"),
            Option("--print_config", FLAG, (), "print the recipe with all defaults and options"),
            Option("--print_schema", FLAG, (), "print the JSON Schema of the recipe"),
            *_of_keys(parser.recipe, ""),
        ]
    values = [str(value) for action in arguments for value in action.choices or ()]
    is_file = any(action.metavar in NAMES_OF_FILES for action in arguments)
    return Verb(name, text, options, is_file, tuple(values))


def _of_action(action: argparse.Action) -> Option:
    """Return an option of a parser, under its long name."""
    name = action.option_strings[-1]
    takes = FLAG if action.nargs == 0 else FILE if action.metavar in NAMES_OF_FILES else VALUE
    values = tuple(str(value) for value in action.choices or ()) or TOOLS.get(name, ())
    return Option(name, takes, values, _short(action.help or ""))


def _of_keys(cls: type, prefix: str) -> Iterator[Option]:
    """Yield the options that a recipe's keys are; those of a list's entries are its last one's."""
    for key, hint in fields_of(cls).items():
        part = recipe_class(hint) or listed_class(hint)
        if recipe_class(hint) is None:
            types, values = bare_types(hint), [str(value) for value in choices(hint)]
            values += ["true", "false"] if bool in types else []
            values += ["null"] if values and type(None) in types else []
            takes = FILE if path_kind(hint) else VALUE
            yield Option(f"--{prefix}{key}", takes, tuple(values), _short(documentation(cls)[key]))
        if part:
            yield from _of_keys(part, f"{prefix}{key}.")


def _short(text: str) -> str:
    """Return the first clause of a text, without what a shell would take for something else."""
    first = text.partition(". ")[0].partition("; ")[0].rstrip(".;")
    plain = "".join(c for c in first if c.isalnum() or c in " ,-./()_+=<>")
    return plain if len(plain) <= WIDTH else f"{plain[: WIDTH - 3].rstrip()}..."


def _cases(verbs: list[Verb], what: Callable[[Verb, Option], str]) -> list[str]:
    """Return lines of a `case` in bash and zsh: verb:option) action;; equal actions of a verb together."""
    lines = []
    for verb in verbs:
        by_action: dict[str, list[str]] = {}
        for option in verb.options:
            if action := what(verb, option):
                by_action.setdefault(action, []).append(f"{verb.name}:{option.name}")
        lines += [f"    {'|'.join(names)}) {action} ;;" for action, names in by_action.items()]
    return lines


BASH = r"""# bash completion of fmriscale, written by: fmriscale completion bash
_fmriscale() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}
  local words='' files='' first=1
  COMPREPLY=()
  # --key=value comes as three words
  if [[ $cur == '=' ]]; then cur=''
  elif [[ $prev == '=' ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  if [[ ${COMP_WORDS[0]##*/} == fmriscale-shard ]]; then verb=shard first=0; fi
  case "$verb:$prev" in
@VALUES
  esac
  if [[ -z $words$files ]]; then
    if (( COMP_CWORD == first )); then
      words=@NAMES
    else
    case "$verb" in
@VERBS
    esac
    fi
  fi
  local IFS=$'\n'
  if [[ -n $files && $cur != -* ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
    compopt -o filenames 2>/dev/null
  else
    COMPREPLY=($(IFS=" "; compgen -W "$words" -- "$cur"))
  fi
  return 0
}
complete -F _fmriscale fmriscale fmriscale-shard
"""

ZSH = """#compdef fmriscale fmriscale-shard
# zsh completion of fmriscale, written by: fmriscale completion zsh
_fmriscale() {
  local verb=${words[2]} prev=${words[CURRENT-1]}
  local -a options verbs
  if [[ ${words[1]:t} == fmriscale-shard ]]; then verb=shard
  elif (( CURRENT == 2 )); then verbs=(@NAMES); _describe verb verbs; return; fi
  if [[ ${words[CURRENT]} == --*=* ]]; then prev=${words[CURRENT]%%=*}; compset -P '*='; fi
  case "$verb:$prev" in
@VALUES
  esac
  case "$verb" in
@VERBS
  esac
  _describe -o option options
}
if [[ ${funcstack[1]} == _fmriscale ]]; then _fmriscale "$@"
else compdef _fmriscale fmriscale fmriscale-shard; fi
"""


def _filled(template: str, values: list[str], verbs: list[str], names: str) -> str:
    """Put what is known of options, of verbs, and their names into a script."""
    parts = {"@VALUES": "\n".join(values), "@VERBS": "\n".join(verbs), "@NAMES": names}
    return re.sub("@[A-Z]+", lambda place: parts[place[0]], template)


def bash(verbs: list[Verb]) -> str:
    """Return the script for bash 3.2 and later."""

    def values(_: Verb, option: Option) -> str:
        if option.values:
            return f"words={shlex.quote(' '.join(option.values))}"
        return {FLAG: "", FILE: "files=1", VALUE: "words=' '"}[option.takes]

    of_verbs = [
        f"    {verb.name}) words={shlex.quote(' '.join([*verb.values, *(o.name for o in verb.options)]))}"
        f"{'; files=1' if verb.takes_files else ''} ;;"
        for verb in verbs
    ]
    names = shlex.quote(" ".join([*(verb.name for verb in verbs), "--help", "--version"]))
    return _filled(BASH, _cases(verbs, values), of_verbs, names)


def zsh(verbs: list[Verb]) -> str:
    """Return the script for zsh: to be sourced, or as the file _fmriscale in a folder of fpath."""

    def values(_: Verb, option: Option) -> str:
        if option.values:
            return f"compadd -- {' '.join(map(shlex.quote, option.values))}; return"
        return {FLAG: "", FILE: "_files; return", VALUE: "return"}[option.takes]

    def described(names: list[tuple[str, str]]) -> str:
        return " ".join(shlex.quote(f"{name}:{text}") for name, text in names)

    of_verbs = []
    for verb in verbs:
        options = described([(option.name, option.text) for option in verb.options])
        other = f"compadd -- {' '.join(verb.values)}; " if verb.values else "_files; " * verb.takes_files
        of_verbs.append(f"    {verb.name}) {other}options=({options}) ;;")
    names = described([(verb.name, _short(verb.text)) for verb in verbs])
    return _filled(ZSH, _cases(verbs, values), of_verbs, names)


def fish(verbs: list[Verb]) -> str:
    """Return the script for fish."""
    lines = ["# fish completion of fmriscale, written by: fmriscale completion fish", ""]
    lines += ["complete -c fmriscale -f"]
    for verb in verbs:
        about = shlex.quote(_short(verb.text))
        lines.append(f"complete -c fmriscale -n __fish_use_subcommand -a {verb.name} -d {about}")
    for verb in verbs:
        seen = shlex.quote(f"__fish_seen_subcommand_from {verb.name}")
        for start in (
            f"complete -c fmriscale -n {seen}",
            *["complete -c fmriscale-shard"] * (verb.name == "shard"),
        ):
            lines += [f"{start} -F"] * verb.takes_files
            lines += [f"{start} -a {shlex.quote(' '.join(verb.values))}"] * bool(verb.values)
            for option in verb.options:
                takes = {FLAG: "", FILE: " -r -F", VALUE: " -x"}[option.takes]
                takes = f" -x -a {shlex.quote(' '.join(option.values))}" if option.values else takes
                about = f" -d {shlex.quote(option.text)}" if option.text else ""
                lines.append(f"{start} -l {option.name.removeprefix('--')}{takes}{about}")
    return "\n".join([*lines, ""])


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
"""Shell: what writes its script."""
