"""Atlases by name, as in `labels_img: schaefer400`: nilearn fetches each once into its data folder.

    schaefer{100,200,...,1000}[_7networks|_17networks][_1mm|_2mm]     7 networks and 1 mm unless said
    yeo{7,17}[_thick|_thin]                                           thick unless said
    basc{7,12,20,36,64,122,197,325,444}[_sym|_asym]                   sym unless said
    aal[_3v2|_spm12|_spm8|_spm5]                                      3v2 unless said
    harvard_oxford_{cort,cortl,sub}-maxprob-thr{0,25,50}-{1,2}mm
    destrieux

nilearn has these as one file of labels in a volume. A probabilistic atlas (DiFuMo, MSDL), or one that is
assembled in memory (Juelich, Craddock), must be given as a file.
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
_BASC = {
    "sym": "https://ndownloader.figshare.com/files/1861819",
    "asym": "https://ndownloader.figshare.com/files/1861820",
}
_HARVARD_OXFORD = "https://www.nitrc.org/frs/download.php/9902/HarvardOxford.tgz"
_DESTRIEUX = "https://www.nitrc.org/frs/download.php/11942/destrieux2009.tgz"
_AAL = {  # version: URL, folder within, names of image and table
    "3v2": ("wp-content/uploads/AAL3v2_for_SPM12.tar.gz", "AAL3", "AAL3v1", ".xml"),
    "SPM12": ("AAL_files/aal_for_SPM12.tar.gz", "aal/atlas", "AAL", ".xml"),
    "SPM8": ("wp-content/uploads/aal_for_SPM8.zip", "aal_for_SPM8", "ROI_MNI_V4", ".txt"),
    "SPM5": ("wp-content/uploads/aal_for_SPM5.zip", "aal_for_SPM5", "ROI_MNI_V4", ".txt"),
}


@dataclass(frozen=True)
class Atlas:
    """A published atlas on this machine."""

    name: str  # as in the recipe
    path: Path  # of the image
    labels: dict[int, str]  # name of every label
    template: str  # the space of the image, as nilearn states it

    def names_of(self, numbers: list[int]) -> tuple[str, ...]:
        """Return the names of the labels that are in the image."""
        if missing := [n for n in numbers if n not in self.labels]:
            what = f"label {missing[0]} of {self.path} has no name"
            raise UserError(f"labels_img: {self.name}: {what}; give labels")
        return tuple(self.labels[n] for n in numbers)


@dataclass(frozen=True)
class _Recipe:
    """The arguments of nilearn for an atlas, and the files it looks for before it asks a server."""

    fetcher: str
    options: dict[str, Any]
    folder: str  # below nilearn's data folder
    files: tuple[str, ...]  # below that
    url: str  # of the archive that holds the files, or of their folder, which ends in a slash


@lru_cache(maxsize=1)
def _recipes() -> dict[str, _Recipe]:
    """Return all atlases by name."""
    known = {}
    for n, networks, mm in product(range(100, 1001, 100), ("", 7, 17), ("", 1, 2)):
        name = f"schaefer{n}" + (networks and f"_{networks}networks") + (mm and f"_{mm}mm")
        stem = f"Schaefer2018_{n}Parcels_{networks or 7}Networks_order"
        options = {
            "n_rois": n,
            "yeo_networks": networks or 7,
            "resolution_mm": mm or 1,
            "base_url": _SCHAEFER,
        }
        files = f"{stem}.txt", f"{stem}_FSLMNI152_{mm or 1}mm.nii.gz"
        known[name] = _Recipe("schaefer_2018", options, "schaefer_2018", files, _SCHAEFER)
    stems = [f"Yeo2011_{m}Networks_MNI152_FreeSurferConformed1mm" for m in (7, 17)]
    names = [f"{stem}{end}.nii.gz" for stem in stems for end in ("", "_LiberalMask")]
    names += [f"Yeo2011_{m}Networks_ColorLUT.txt" for m in (7, 17)]
    names += ["FSL_MNI152_FreeSurferConformed_1mm.nii.gz"]
    files = tuple(f"Yeo_JNeurophysiol11_MNI152/{name}" for name in names)
    for n, thickness in product((7, 17), ("", "thick", "thin")):
        options = {"n_networks": n, "thickness": thickness or "thick"}
        name = f"yeo{n}" + (thickness and f"_{thickness}")
        known[name] = _Recipe("yeo_2011", options, "yeo_2011", files, _YEO)
    for n, version in product((7, 12, 20, 36, 64, 122, 197, 325, 444), ("", "sym", "asym")):
        own = version or "sym"
        stem = f"template_cambridge_basc_multiscale_{own}_scale{n:03}.nii.gz"
        files = (f"template_cambridge_basc_multiscale_nii_{own}/{stem}",)
        name, options = f"basc{n}" + (version and f"_{version}"), {"resolution": n, "version": own}
        known[name] = _Recipe("basc_multiscale_2015", options, "basc_multiscale_2015", files, _BASC[own])
    for version in ("", *_AAL):
        own = version or "3v2"
        url, folder, stem, end = _AAL[own]
        files = tuple(f"{folder}/{stem}{extension}" for extension in (".nii", end))
        name = "aal" + (version and f"_{version.lower()}")
        known[name] = _Recipe("aal", {"version": own}, f"aal_{own}", files, f"https://www.gin.cnrs.fr/{url}")
    tables = {"cort": "Cortical", "cortl": "Cortical-Lateralized", "sub": "Subcortical"}
    for part, threshold, mm in product(tables, (0, 25, 50), (1, 2)):
        which = f"{part}-maxprob-thr{threshold}-{mm}mm"
        names = f"HarvardOxford/HarvardOxford-{which}.nii.gz", f"HarvardOxford-{tables[part]}.xml"
        files = tuple(f"data/atlases/{name}" for name in names)
        options = {"atlas_name": which}
        known[f"harvard_oxford_{which}"] = _Recipe("harvard_oxford", options, "fsl", files, _HARVARD_OXFORD)
    ends = "_rois_labels_lateralized.csv", "_rois_lateralized.nii.gz", ".rst"
    files = tuple(f"destrieux2009{end}" for end in ends)
    return known | {"destrieux": _Recipe("destrieux_2009", {}, "destrieux_2009", files, _DESTRIEUX)}


@lru_cache(maxsize=16)
def fetch_atlas(name: str) -> Atlas:
    """Return an atlas by its name, from nilearn's data folder or from its server, once."""
    recipe = _recipes().get(name)
    if recipe is None:
        near = difflib.get_close_matches(name.lower(), _recipes(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "docs/sharding.md lists them"
        raise UserError(f"labels_img: {name}: neither a file nor an atlas known by name; {hint}")
    from nilearn import datasets

    folders = [Path(folder) / recipe.folder for folder in datasets.get_data_dirs()]
    folder = next((f for f in folders if f.is_dir()), folders[0])
    cache = cache_folder(None)
    with writing_to(cache):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time: nilearn's temporary folder has the same name in all of them.
        with FileLock(cache / "atlases.lock"), warnings.catch_warnings(action="ignore"):
            atlas = getattr(datasets, f"fetch_atlas_{recipe.fetcher}")(**recipe.options, verbose=0)
        numbers, names = atlas.lut["index"].astype(int), atlas.lut["name"].astype(str)
        labels = dict(zip(numbers.tolist(), names.tolist(), strict=True))
    except Exception as error:  # whatever networks, archives and half-written tables raise
        raise UserError(f"labels_img: {name}: {_remedy(recipe, folder, error)}") from error
    return Atlas(name, Path(atlas.get("filename", atlas.maps)), labels, str(atlas.template))


def _remedy(recipe: _Recipe, folder: Path, error: Exception) -> str:
    """Return which files to put where, so that no server is needed, or which are damaged."""
    missing = [file for file in recipe.files if not (folder / file).is_file()]
    if not missing:
        return f"what is in {folder} cannot be read ({type(error).__name__}); delete it and run this again"
    to_do = f"download {recipe.url} and unpack it in {folder}, so that there is {folder / missing[0]}"
    if recipe.url.endswith("/"):
        to_do = f"download {' and '.join(recipe.url + file for file in missing)} into {folder}"
    return f"could not be downloaded ({type(error).__name__}); {to_do}, then run this again"
