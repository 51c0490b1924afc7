"""Commands that convert what is no series in a NIfTI file yet: single volumes, pairs of .hdr and .img."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

PAIRS = (".img", ".hdr")  # Halves of an image of Analyze, SPM or NIfTI; nibabel opens either

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


def _command(code: str, *words: object) -> str:
    return f'python -c "{code}" ' + shlex.join(map(str, words))


def from_pair(path: Path) -> str:
    """Return what to do with half of a pair."""
    target = path.with_name(f"{path.name[:-4]}.nii.gz")
    return f"half of a .hdr/.img pair; convert it: {_command(_SAVE, path, target)}"


def from_pairs(root: Path, glob: str, file: str) -> str:
    """Return what to do with all pairs that a glob matches, and the glob for the converted images."""
    stem = re.sub(r"\.(img|hdr)$", "", glob)
    after = f"{stem}.nii.gz" if stem != glob else re.sub(r"\.\*$", "", glob).rstrip("*") + "*.nii.gz"
    command = _command(_SAVE_ALL, root, glob, file[-4:])
    return f"they are .hdr/.img pairs; convert them: {command} and set files: '{after}'"


def series_of_volumes(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield groups of 3D images whose names differ in a number alone: volumes of one run."""
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    for path in paths:
        if match := _NUMBERED.match(path.name):
            groups.setdefault((path.parent, match[1], match[2]), []).append(path)
    for files in groups.values():
        if len(files) >= _SEVERAL and _is_volume(files[0]):
            yield files


def _is_volume(path: Path) -> bool:
    """Return whether the header of an image states three dimensions."""
    from fmriscale.ingest.read.content import check_content
    from fmriscale.ingest.read.nifti import open_nifti

    try:
        check_content(path, "nifti")
        with open_nifti(path) as image:
            return len(image.shape) == 3
    except Exception:  # a damaged header raises whatever comes first; the reader reports it
        return False


def pattern_of(path: Path) -> str:
    """Return the glob that matches a numbered volume and those of the same series."""
    return _NUMBERED.sub(r"\1[0-9]*\2", path.name)


def from_volumes(path: Path) -> str:
    """Return how the numbered volumes of a run become one image."""
    stem = _NUMBERED.sub(r"\1", path.name).rstrip("_-")
    target = f"{stem or 'joined'}_4D.nii.gz"
    command = _command(_JOIN, path.parent / pattern_of(path), path.parent / target)
    return f"join them: {command} and list {target} by files, with t_r, which volumes do not state"


def not_a_series(path: Path, shape: tuple[int, ...]) -> str:
    """Return what to do with an image that is not 4D."""
    what = f"shape {shape} is not 4D (x, y, z, time)"
    if len(shape) != 3:
        return what
    if _NUMBERED.match(path.name) and len(list(path.parent.glob(pattern_of(path)))) > 1:
        return f"{what}: a volume of a run; {from_volumes(path)}"
    return f"{what}: a single volume, such as a mean, a reference or a mask; leave it out"
