"""What all parts of a recipe have in common: rules beyond types, told all at once; which texts are paths."""

from collections.abc import Iterator
from enum import Enum
from typing import Annotated, ClassVar

Rule = tuple[tuple[str, ...], str]
"""The keys that a broken rule is about (none: the part as a whole), and what is wrong, with the remedy."""


class BrokenRules(ValueError):
    """Values that are of the right type and still cannot be."""

    def __init__(self, broken: list[Rule]) -> None:
        super().__init__("; ".join(text for _, text in broken))
        self.broken = broken


class Settings:
    """A part of a recipe; subclasses are frozen dataclasses, and keys that they do not have are refused."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    """Read by pydantic: a key that the part does not have is refused."""

    def _broken_rules(self) -> Iterator[Rule]:
        """Yield every rule beyond types that the values break."""
        yield from ()

    def __post_init__(self) -> None:
        if broken := list(self._broken_rules()):
            raise BrokenRules(broken)


class PathKind(Enum):
    """How the text of a setting names files: relative ones are relative to the recipe's folder."""

    PATH = "a path, or a URL"
    NAME_OR_PATH = "a bare name, or a path"
    TEMPLATE = "a path with {fields} that each run fills in"


PathText = Annotated[str, PathKind.PATH]
NameOrPath = Annotated[str, PathKind.NAME_OR_PATH]
PathTemplate = Annotated[str, PathKind.TEMPLATE]
