"""What a recipe may name in the place of a path: a published atlas by its name."""

import re
from pathlib import Path

_BARE = re.compile(r"[A-Za-z][\w-]*")


def is_atlas_name(text: str, folder: Path | None = None) -> bool:
    """Tell a bare name such as `schaefer400` from the path of an image; a file of that name is a file.

    Parameters
    ----------
    text : str
        As the recipe gives it; whether an atlas has that name is another question.
    folder : Path, optional
        Where relative paths start; None = the working directory.
    """
    return _BARE.fullmatch(text) is not None and not (folder or Path()).joinpath(text).exists()
