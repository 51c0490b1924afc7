"""Detect what a file is by its first bytes, whatever its name, and whether its content was fetched at all."""

import contextlib
import re
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.hashes import HashedFile

_HEAD = 8192  # Bytes that are read to identify a file

_GZIP = b"\x1f\x8b"
_ANNEX = re.compile(rb"[^\0\r\n]{0,400}[/\\]annex[/\\]objects[/\\]")
_LFS = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/")
_LINK = re.compile(rb"\.{1,2}[/\\][^\0\r\n]{1,1000}\r?\n?")
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<(\?xml|[A-Za-z!])")
_JSON = re.compile(rb'\s*[{\[]\s*("|[{\[}\]])')
_NO_TEXT = bytes(byte for byte in range(32) if byte not in b"\t\n\f\r\x1a\x1b")

_AGAIN = "download or copy it again"
_VOLUME = "use features with labels_img or mask_img"

_STARTS = {  # First bytes of other files: what they are, and the remedy
    b"\x00\x05\x16\x07": ("a note of macOS about another file (AppleDouble)", "delete it"),
    b"PK\x03\x04": ("a zip archive", "unpack it (unzip)"),
    b"BZh": ("compressed by bzip2", "unpack it (bunzip2)"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it (unxz)"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it (unzstd)"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it (7z x)"),
    b"Rar!": ("a rar archive", "unpack it (unrar x)"),
    b"%PDF": ("a PDF", _AGAIN),
    b"\x89PNG": ("a PNG picture", _AGAIN),
    b"\xff\xd8\xff": ("a JPEG picture", _AGAIN),
    b"NRRD": ("an NRRD image", "convert it to NIfTI (e.g. with 3D Slicer or SimpleITK)"),
    b"CDF": ("a netCDF file (MINC?)", "convert it to NIfTI (mnc2nii)"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "convert it to NIfTI (mnc2nii, where it is MINC)"),
    b"\x93NUMPY": ("a NumPy array", "give it to kind arrays, or write it as NIfTI with its affine"),
    b"MATLAB": ("a MATLAB file", "give it to kind arrays"),
}

_KINDS = {b"PK\x03\x04": "zip", b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"MATLAB": "matlab"}

_ACCEPTED = {  # Kinds of content by the form of a run, of arrays by the extension; all others must be text
    "nifti": ("nifti", "nifti2"),
    "cifti": ("nifti2", "cifti"),
    "gifti": ("gifti",),
    ".npz": ("zip",),
    ".npy": ("npy",),
    ".mat": ("matlab", "hdf5"),
    ".h5": ("hdf5", "matlab"),
    ".hdf5": ("hdf5", "matlab"),
}

_FORMS = {"nifti": "NIfTI image", "cifti": "CIFTI file", "gifti": "GIFTI file"}
_FORMS |= {form: form for form in ("array", "table", "text")}


@contextlib.contextmanager
def open_content(path: Path) -> Iterator[Any]:
    """Open a file for reading bytes, decompressed if its content is gzip, whatever its name."""
    from isal import igzip

    with path.open("rb") as handle:
        if handle.read(2) != _GZIP:
            handle.seek(0)
            yield handle
            return
    with HashedFile(path) as packed, igzip.IGzipFile(fileobj=packed, mode="rb") as content:
        yield content


def check_fetched(path: Path, prefix: str = "") -> bytes:
    """Return the first bytes of a file; reject a placeholder for content that was not fetched."""
    name = shlex.quote(path.name)
    annexed = f"content that git-annex has not fetched; fetch it: datalad get {name} (or git annex get)"
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        gone = f"content that is not here ({target}); copy or fetch it"
        raise Rejected("not_fetched", f"{prefix}a link to {annexed if 'annex' in target.parts else gone}")
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        raise Rejected("unreadable", f"{prefix}cannot be read: {error.strerror}; correct that") from error
    if _ANNEX.match(head):
        raise Rejected("not_fetched", f"{prefix}a text that stands for {annexed}")
    if _LFS.match(head):
        what = "a text that stands for content that Git LFS has not fetched"
        command = f"git lfs pull --include {shlex.quote('*' + path.name)}"
        raise Rejected("not_fetched", f"{prefix}{what}; fetch it: {command}")
    if _LINK.fullmatch(head):
        what = f"the text of a link to {head.decode(errors='replace').strip()}"
        remedy = "as a checkout without links writes it; put that file in its place"
        raise Rejected("not_fetched", f"{prefix}{what}, {remedy}")
    return head


def check_content(path: Path, form: str, prefix: str = "") -> None:
    """Reject a file whose content is not of its form, and name what it is."""
    head = check_fetched(path, prefix)
    if not head:
        what = "empty (0 bytes): a placeholder, or a download or copy that failed"
        raise Rejected("unreadable", f"{prefix}{what}; {_AGAIN}")
    if is_gzip := head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD)
        except zlib.error:  # damaged
            head = b""
    kind, what, remedy = _identify(head, path)
    if form == "array":
        form = path.suffix if path.suffix in _ACCEPTED else "table"
        remedy = _AGAIN if "NIfTI" in remedy or "arrays" in remedy else remedy
    if form == "text" and "XML" in what:
        remedy = "write its names as a text, one 'index name' a line"
    has_right_name = form != "gifti" or (path.suffix == ".gz") == is_gzip  # nibabel goes by the name
    if kind == "unknown" or (kind in _ACCEPTED.get(form, ("text",)) and has_right_name):
        return
    if kind == "gzip":
        what, remedy = "compressed twice by gzip", f"unpack it once (gunzip -c {shlex.quote(path.name)})"
    elif is_gzip:
        what = f"{what} in gzip"
    if kind == form == "gifti":
        remedy = "unpack it (gunzip)" if is_gzip else "take the .gz off its name"
        raise Rejected("unreadable", f"{prefix}named {path.suffix}, but it is {what}; {remedy}")
    raise Rejected("unreadable", f"{prefix}not a {_FORMS.get(form, f'{form} file')}: it is {what}; {remedy}")


@contextlib.contextmanager
def reading(path: Path, form: str, prefix: str = "") -> Iterator[None]:
    """Check the content of a file of a run, and reject it for whatever a damaged one raises within."""
    check_content(path, form, prefix)
    try:
        yield
    except Rejected:
        raise
    except Exception as error:  # nibabel, zip, gzip, numpy, pandas, scipy and HDF5 each have their own
        what = f"{prefix}not a readable {_FORMS[form]}: {error}"
        raise Rejected("unreadable", f"{what}; copy it again") from error


@contextlib.contextmanager
def reading_input(path: Path, form: str) -> Iterator[None]:
    """Do as `reading` for a file that the recipe names: what is wrong with it is a `UserError`."""
    try:
        with reading(path, form):
            yield
    except Rejected as why:
        raise UserError(f"{path}: {why.detail}") from why


def _identify(head: bytes, path: Path) -> tuple[str, str, str]:
    """Return the kind of content ("unknown" where nothing is clear), what it is in words, and the remedy."""
    size, swapped = (int.from_bytes(head[:4], order) for order in ("little", "big"))
    if 348 in (size, swapped) and head[344:347] == b"n+1":
        return "nifti", "a NIfTI image", _VOLUME
    if 540 in (size, swapped) and head[4:7] == b"n+2":
        intent = int.from_bytes(head[504:508], "little" if size == 540 else "big")
        if 3000 <= intent < 3100:
            return "cifti", "a CIFTI file", "use features for CIFTI: structures, parcels or a .dlabel.nii"
        return "nifti2", "a NIfTI-2 image", _VOLUME
    if head.startswith(_GZIP):
        return "gzip", "compressed by gzip", "unpack it (gunzip)"
    for start, (what, remedy) in _STARTS.items():
        if head.startswith(start):
            return _KINDS.get(start, "other"), what, remedy
    if head[128:132] == b"DICM":
        return "other", "a DICOM file", "convert the series (dcm2niix)"
    if head[257:262] == b"ustar":
        return "other", "a tar archive", "unpack it (tar xf)"
    version, *extents, voxels = (int.from_bytes(head[i : i + 4], "big") for i in range(0, 24, 4))
    if len(head) > 284 and version == 1 and all(0 < n < 10**6 for n in extents) and voxels < 11:
        stem = path.name.split(".")[0]
        return "other", "an MGH image of FreeSurfer", f"convert it (mri_convert {stem}.mgz {stem}.nii.gz)"
    return _identify_text(head)


def _identify_text(head: bytes) -> tuple[str, str, str]:
    if _PAGE.match(head):
        remedy = f"the download failed: log in or correct the address, and {_AGAIN}"
        return "other", "a web page (HTML)", remedy
    if b"<GIFTI" in head:
        return "gifti", "a GIFTI file", "use features with labels_gii"
    text = " ".join(re.sub(r"<\?xml.*?\?>", "", head[:400].decode(errors="replace")).split())
    beginning = f"beginning '{text[:60]}{'...' if len(text) > 60 else ''}'"
    if _XML.match(head):
        return "other", f"XML, {beginning}", _AGAIN
    if _JSON.match(head):
        return "other", f"JSON, {beginning}", _AGAIN
    if head and len(head.translate(None, _NO_TEXT)) == len(head):
        return "text", f"a text, {beginning}", _AGAIN
    return "unknown", "", ""
