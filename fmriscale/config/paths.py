"""The one rule of paths: in a recipe file relative to its folder, in an option to the working directory.

`~` and `$NAME` at the start are what the shell says, so a path that begins with them is not relative.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmriscale.config.settings import PathKind, Settings, fields_of, item_at, path_kind

RULE = (
    "A relative path in a recipe file is relative to the folder of that file; in an option, to the working "
    "directory. ~ and $NAME are expanded, and a path that begins with one of them is as the shell has it."
)
_BARE = re.compile(r"[A-Za-z][\w-]*")


def is_atlas_name(text: str, folder: Path | None = None) -> bool:
    """Tell a bare name such as `schaefer400` from the path of an image; a file of that name is a file."""
    return _BARE.fullmatch(text) is not None and not (folder or Path()).joinpath(text).exists()


def is_relative(text: str, kind: PathKind, folder: str = "") -> bool:
    """Tell whether a text is a path that depends on where it is read: no URL, no name of an atlas."""
    if not text.strip() or text.startswith(("~", "$")) or "://" in text or Path(text).is_absolute():
        return False
    if kind is PathKind.NAME_OR_PATH:
        return not is_atlas_name(text, Path(folder))
    return kind is not PathKind.TEMPLATE or not text.startswith(("{root}", "{dir}"))


def below(folder: str, text: str, kind: PathKind) -> str:
    """Return a path that is relative to a folder as it is seen from where the folder's own path is."""
    if kind is PathKind.TEMPLATE:
        text = text.removeprefix("{recipe}/")
        folder = folder.replace("{", "{{").replace("}", "}}")
    return os.path.normpath(Path(folder, text)) if is_relative(text, kind, folder) else text


def absolute(text: str, kind: PathKind) -> str:
    """Return a path for a reader elsewhere, who has the same file system."""
    return below(str(Path.cwd()), text, kind) if is_relative(text, kind) else text


def seen_from(folder: Path) -> Callable[[str, PathKind], str]:
    """Return what writes a path for a reader of a file in a folder: relative below the working directory."""
    working, target = Path.cwd(), Path(os.path.normpath(folder.absolute()))
    if not target.is_relative_to(working):
        return absolute
    return lambda text, kind: os.path.relpath(text, target) if is_relative(text, kind) else text


def map_paths(config: Settings, change: Callable[[str, PathKind], Any]) -> dict[str, Any]:
    """Return a configuration as nested dictionaries, with every path of its files changed."""
    return {name: _map(getattr(config, name), hint, change) for name, hint in fields_of(type(config)).items()}


def _map(value: Any, hint: Any, change: Callable[[str, PathKind], Any]) -> Any:
    if isinstance(value, Settings):
        return map_paths(value, change)
    if isinstance(value, dict):
        return {key: _map(item, item_at(hint, key), change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map(item, item_at(hint, 0), change) for item in value]
    kind = path_kind(hint) if isinstance(value, str) else None
    return value if kind is None else change(value, kind)
