"""Images that are no series in a NIfTI file yet: volumes one by one, pairs of .hdr and .img. The commands."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from fmriscale.common.quarantine import Rejected

PAIRS = (".img", ".hdr")
"""Halves of an image of Analyze, SPM or NIfTI; nibabel opens either."""

_NUMBERED = re.compile(r"^(.*?)[0-9]+(\.nii|\.nii\.gz)$")
_SEVERAL = 3
_SAVE = "import nibabel as n, sys; n.save(n.load(sys.argv[1]), sys.argv[2])"
_SAVE_ALL = (
    "import nibabel as n, pathlib, sys; [n.save(n.load(f), str(f)[:-4] + '.nii.gz') for f in "
    "pathlib.Path(sys.argv[1]).glob(sys.argv[2]) if f.suffix == sys.argv[3]]"
)
_JOIN = (
    "import glob, sys; from nilearn.image import concat_imgs; concat_imgs(sorted(glob.glob(sys.argv[1]), "
    "key=lambda f: (len(f), f))).to_filename(sys.argv[2])"
)


def _command(code: str, *words: str) -> str:
    return shlex.join(["python", "-c"]) + f' "{code}" ' + shlex.join(words)


def from_pair(path: Path) -> str:
    """Say how a pair becomes a NIfTI image."""
    target = path.with_name(f"{path.name[:-4]}.nii.gz")
    return f"half of a .hdr/.img pair; convert it: {_command(_SAVE, str(path), str(target))}"


def from_pairs(root: Path, glob: str, file: str) -> str:
    """Say how all pairs that a glob finds become NIfTI images, and what the glob is then."""
    command = _command(_SAVE_ALL, str(root), glob, file[-4:])
    end = re.sub(r"\.(img|hdr)$", "", glob)
    after = f"{end}.nii.gz" if end != glob else re.sub(r"\.\*$", "", glob).rstrip("*") + "*.nii.gz"
    return f"they are .hdr/.img pairs; convert them: {command} and set files: '{after}'"


def series_of_volumes(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield the files of each folder that only a number tells apart, where they are 3D: volumes of a run."""
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    for path in paths:
        if match := _NUMBERED.match(path.name):
            groups.setdefault((path.parent, match[1], match[2]), []).append(path)
    for files in groups.values():
        if len(files) >= _SEVERAL and _is_volume(files[0]):
            yield files


def _is_volume(path: Path) -> bool:
    """Tell by its header a single volume from a series."""
    from fmriscale.ingest.read.content import check_content
    from fmriscale.ingest.read.nifti import open_nifti

    try:
        check_content(path, "nifti")
        with open_nifti(path) as image:
            return len(image.shape) == 3
    except Rejected:
        return False
    except Exception:  # a damaged header raises whatever comes first; the reader says what
        return False


def pattern_of(path: Path) -> str:
    """Return the glob that finds a numbered volume and those of the same series."""
    return _NUMBERED.sub(r"\1[0-9]*\2", path.name)


def from_volumes(path: Path) -> str:
    """Say how the numbered volumes of a run become one image."""
    match = _NUMBERED.match(path.name)
    if match is None:
        raise ValueError(f"{path.name} has no number at its end")
    target = f"{match[1].rstrip('_-') or 'joined'}_4D.nii.gz"
    command = _command(_JOIN, str(path.parent / pattern_of(path)), str(path.parent / target))
    return f"join them: {command} and list {target} by files, with t_r, which volumes do not state"


def not_a_series(path: Path, shape: tuple[int, ...]) -> str:
    """Say of an image that is not 4D what to do with it."""
    what = f"shape {shape} is not 4D (x, y, z, time)"
    if len(shape) != 3:
        return what
    match = _NUMBERED.match(path.name)
    if match and len(list(path.parent.glob(pattern_of(path)))) > 1:
        return f"{what}: a volume of a run; {from_volumes(path)}"
    return f"{what}: a single volume, such as a mean, a reference or a mask; leave it out"
