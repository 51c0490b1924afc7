"""The options of a verb beside its recipe; mistakes are told like any other, on one line."""

import argparse
import re
from typing import Any, NoReturn

from fmriscale.common.console import QUIET, QUIET_HELP, set_quiet
from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean, nearest
from fmriscale.config.examples import ending_of


class _Quiet(argparse.Action):
    """Makes the console quiet."""

    def __call__(self, *_: Any) -> None:
        """Note that the option is given."""
        set_quiet(True)


class CommandLine(argparse.ArgumentParser):
    """Options of a verb.

    A verb with a recipe leaves what it does not know to the recipe's reader, which shows the help, too.
    """

    def __init__(self, prog: str, recipe: type | None = None, **settings: Any) -> None:
        alone = recipe is None
        super().__init__(prog, add_help=alone, allow_abbrev=alone, **settings)
        self.recipe = recipe
        if alone:  # else the reader of the recipe takes it
            self.add_argument(*QUIET, action=_Quiet, nargs=0, help=QUIET_HELP)

    def format_help(self) -> str:
        """Return the help; that of a verb without a recipe ends with its examples."""
        text = super().format_help()
        return text if self.recipe else f"{text}\n{ending_of(self.prog)}"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the options; one that is no key of a recipe, and near one of these, is refused."""
        known, rest = super().parse_known_args(args, namespace)
        for name in (word.partition("=")[0] for word in rest):
            if self.recipe and "-" in name.removeprefix("--") and (hint := self._near_option(name)):
                raise UserError(f"{name} is no option{hint}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, what may be meant, and how the verb is used."""
        raise UserError(f"{message}{self._hint(message)}; {' '.join(self.format_usage().split())}")

    def _hint(self, message: str) -> str:
        if choice := re.search(r"invalid choice: '([^']*)'", message):
            choices = [str(value) for action in self._actions for value in action.choices or ()]
            return did_you_mean(choice[1], choices)
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        return self._near_option(unknown[1]) if unknown else ""

    def _near_option(self, name: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        near = nearest(name, known, cutoff=0.75)
        return f"; did you mean {near[0]}?" if near else ""
