"""Atlases by name: `labels_img: schaefer400`, fetched once by nilearn into its data folder.

    schaefer{100,200,...,1000}[_7networks|_17networks][_1mm|_2mm]     7 networks and 1 mm unless said
    yeo{7,17}[_thick|_thin]                                           thick unless said
    basc{7,12,20,36,64,122,197,325,444}[_sym|_asym]                   sym unless said
    aal[_3v2|_spm12|_spm8|_spm5]                                      3v2 unless said
    harvard_oxford_{cort,cortl,sub}-maxprob-thr{0,25,50}-{1,2}mm
    destrieux

These are the ones that nilearn has as one file of labels in a volume. What is probabilistic (DiFuMo, MSDL)
or put together in memory (Juelich, Craddock) needs a file.
"""

import difflib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from fmriscale.common.errors import UserError
from fmriscale.common.files import writing_to
from fmriscale.corpus.cache import cache_folder

_SCHAEFER = (
    "https://raw.githubusercontent.com/ThomasYeoLab/CBIG/v0.14.3-Update_Yeo2011_Schaefer2018_labelname/"
    "stable_projects/brain_parcellation/Schaefer2018_LocalGlobal/Parcellations/MNI/"
)
_YEO = "ftp://surfer.nmr.mgh.harvard.edu/pub/data/Yeo_JNeurophysiol11_MNI152.zip"
_AAL = {  # version: URL, folder within, names of image and table
    "3v2": ("wp-content/uploads/AAL3v2_for_SPM12.tar.gz", "AAL3", "AAL3v1", ".xml"),
    "SPM12": ("AAL_files/aal_for_SPM12.tar.gz", "aal/atlas", "AAL", ".xml"),
    "SPM8": ("wp-content/uploads/aal_for_SPM8.zip", "aal_for_SPM8", "ROI_MNI_V4", ".txt"),
    "SPM5": ("wp-content/uploads/aal_for_SPM5.zip", "aal_for_SPM5", "ROI_MNI_V4", ".txt"),
}


@dataclass(frozen=True)
class Atlas:
    """A published atlas on this machine.

    Attributes
    ----------
    name : str
        As the recipe has it.
    path : Path
        The image.
    labels : dict of int to str
        Name of every label.
    template : str
        The space it lies in, as nilearn states it.
    """

    name: str
    path: Path
    labels: dict[int, str]
    template: str

    def names_of(self, numbers: list[int]) -> tuple[str, ...]:
        """Return the names of labels that are in the image."""
        if missing := [n for n in numbers if n not in self.labels]:
            raise UserError(
                f"labels_img: {self.name}: label {missing[0]} of {self.path} has no name; give labels"
            )
        return tuple(self.labels[n] for n in numbers)


@dataclass(frozen=True)
class _Recipe:
    """How nilearn is asked for an atlas, and what it looks for before it asks a server."""

    fetcher: str
    options: dict[str, Any]
    folder: str
    """Below nilearn's data folder."""
    files: tuple[str, ...]
    """Below that."""
    url: str
    """Of the archive that holds them, or of their folder, which ends in a slash."""


@lru_cache(maxsize=1)
def _recipes() -> dict[str, _Recipe]:
    known = {}
    for n, networks, mm in product(range(100, 1001, 100), ("", 7, 17), ("", 1, 2)):
        name = f"schaefer{n}" + (networks and f"_{networks}networks") + (mm and f"_{mm}mm")
        options = {
            "n_rois": n,
            "yeo_networks": networks or 7,
            "resolution_mm": mm or 1,
            "base_url": _SCHAEFER,
        }
        stem = f"Schaefer2018_{n}Parcels_{networks or 7}Networks_order"
        files = f"{stem}.txt", f"{stem}_FSLMNI152_{mm or 1}mm.nii.gz"
        known[name] = _Recipe("schaefer_2018", options, "schaefer_2018", files, _SCHAEFER)
    for n, thickness in product((7, 17), ("", "thick", "thin")):
        options = {"n_networks": n, "thickness": thickness or "thick"}
        stems = [f"Yeo2011_{m}Networks_MNI152_FreeSurferConformed1mm" for m in (7, 17)]
        files = [f"{stem}{end}.nii.gz" for stem in stems for end in ("", "_LiberalMask")]
        files += [f"Yeo2011_{m}Networks_ColorLUT.txt" for m in (7, 17)]
        files = (
            f"Yeo_JNeurophysiol11_MNI152/{f}" for f in (*files, "FSL_MNI152_FreeSurferConformed_1mm.nii.gz")
        )
        name = f"yeo{n}" + (thickness and f"_{thickness}")
        known[name] = _Recipe("yeo_2011", options, "yeo_2011", tuple(files), _YEO)
    for n, version in product((7, 12, 20, 36, 64, 122, 197, 325, 444), ("", "sym", "asym")):
        own = version or "sym"
        stem = f"template_cambridge_basc_multiscale_{own}_scale{n:03}.nii.gz"
        files = (f"template_cambridge_basc_multiscale_nii_{own}/{stem}",)
        url = f"https://ndownloader.figshare.com/files/{1861819 if own == 'sym' else 1861820}"
        name, options = f"basc{n}" + (version and f"_{version}"), {"resolution": n, "version": own}
        known[name] = _Recipe("basc_multiscale_2015", options, "basc_multiscale_2015", files, url)
    for version in ("", *_AAL):
        url, folder, stem, end = _AAL[version or "3v2"]
        files = tuple(f"{folder}/{stem}{e}" for e in (".nii", end))
        name, options = "aal" + (version and f"_{version.lower()}"), {"version": version or "3v2"}
        known[name] = _Recipe(
            "aal", options, f"aal_{version or '3v2'}", files, f"https://www.gin.cnrs.fr/{url}"
        )
    tables = {"cort": "Cortical", "cortl": "Cortical-Lateralized", "sub": "Subcortical"}
    for part, threshold, mm in product(tables, (0, 25, 50), (1, 2)):
        which = f"{part}-maxprob-thr{threshold}-{mm}mm"
        names = f"HarvardOxford/HarvardOxford-{which}.nii.gz", f"HarvardOxford-{tables[part]}.xml"
        files, url = tuple(f"data/atlases/{n}" for n in names), "https://www.nitrc.org/frs/download.php/9902/"
        options = {"atlas_name": which}
        known[f"harvard_oxford_{which}"] = _Recipe(
            "harvard_oxford", options, "fsl", files, f"{url}HarvardOxford.tgz"
        )
    files = tuple(
        f"destrieux2009{end}" for end in ("_rois_labels_lateralized.csv", "_rois_lateralized.nii.gz", ".rst")
    )
    url = "https://www.nitrc.org/frs/download.php/11942/destrieux2009.tgz"
    return known | {"destrieux": _Recipe("destrieux_2009", {}, "destrieux_2009", files, url)}


@lru_cache(maxsize=16)
def fetch_atlas(name: str) -> Atlas:
    """Return an atlas by its name, from nilearn's data folder or from its server, once."""
    recipe = _recipes().get(name)
    if recipe is None:
        near = difflib.get_close_matches(name.lower(), _recipes(), n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(near)}?" if near else "; docs/sharding.md lists them"
        raise UserError(f"labels_img: {name}: neither a file nor an atlas known by name{meant}")
    from nilearn import datasets

    folders = [Path(folder) / recipe.folder for folder in datasets.get_data_dirs()]
    folder = next((f for f in folders if f.is_dir()), folders[0])
    cache = cache_folder(None)
    with writing_to(cache):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time: nilearn's temporary folder has the same name in all of them.
        with FileLock(cache / "atlases.lock"), warnings.catch_warnings(action="ignore"):
            found = getattr(datasets, f"fetch_atlas_{recipe.fetcher}")(**recipe.options, verbose=0)
        numbers, names = found.lut["index"].astype(int), found.lut["name"].astype(str)
        labels = dict(zip(numbers.tolist(), names.tolist(), strict=True))
    except Exception as error:  # whatever networks, archives and half-written tables raise
        raise UserError(f"labels_img: {name}: {_remedy(recipe, folder, error)}") from error
    return Atlas(name, Path(found.get("filename", found.maps)), labels, str(found.template))


def _remedy(recipe: _Recipe, folder: Path, error: Exception) -> str:
    """Say what to put where, so that no server is needed, or what is wrong with what is there."""
    missing = [file for file in recipe.files if not (folder / file).is_file()]
    if not missing:
        return f"what is in {folder} cannot be read ({type(error).__name__}); delete it and run this again"
    if recipe.url.endswith("/"):
        what = " and ".join(recipe.url + file for file in missing)
        to_do = f"download {what} into {folder}"
    else:
        to_do = f"download {recipe.url} and unpack it in {folder}, so that there is {folder / missing[0]}"
    return f"could not be downloaded ({type(error).__name__}); {to_do}, then run this again"
