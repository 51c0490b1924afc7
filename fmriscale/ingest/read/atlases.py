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

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from fmriscale.common.errors import UserError
from fmriscale.common.files import writing_to
from fmriscale.common.suggest import nearest
from fmriscale.corpus.cache import cache_folder

_SCHAEFER = (
    "https://raw.githubusercontent.com/ThomasYeoLab/CBIG/v0.14.3-Update_Yeo2011_Schaefer2018_labelname/"
    "stable_projects/brain_parcellation/Schaefer2018_LocalGlobal/Parcellations/MNI/"
)


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
            where = f"label {missing[0]} of {self.path}"
            raise UserError(f"labels_img: {self.name}: {where} has no name; give labels")
        return tuple(self.labels[n] for n in numbers)


@lru_cache(maxsize=1)
def _fetchers() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return nilearn's fetcher and its arguments for every atlas by name."""
    known = {}
    for n, networks, mm in product(range(100, 1001, 100), ("", 7, 17), ("", 1, 2)):
        name = f"schaefer{n}" + (networks and f"_{networks}networks") + (mm and f"_{mm}mm")
        options = {"n_rois": n, "yeo_networks": networks or 7, "resolution_mm": mm or 1}
        known[name] = "schaefer_2018", options | {"base_url": _SCHAEFER}
    for n, thickness in product((7, 17), ("", "thick", "thin")):
        name = f"yeo{n}" + (thickness and f"_{thickness}")
        known[name] = "yeo_2011", {"n_networks": n, "thickness": thickness or "thick"}
    for n, version in product((7, 12, 20, 36, 64, 122, 197, 325, 444), ("", "sym", "asym")):
        name = f"basc{n}" + (version and f"_{version}")
        known[name] = "basc_multiscale_2015", {"resolution": n, "version": version or "sym"}
    for version in ("", "3v2", "SPM12", "SPM8", "SPM5"):
        known["aal" + (version and f"_{version.lower()}")] = "aal", {"version": version or "3v2"}
    for part, threshold, mm in product(("cort", "cortl", "sub"), (0, 25, 50), (1, 2)):
        which = f"{part}-maxprob-thr{threshold}-{mm}mm"
        known[f"harvard_oxford_{which}"] = "harvard_oxford", {"atlas_name": which}
    return known | {"destrieux": ("destrieux_2009", {})}


@lru_cache(maxsize=16)
def fetch_atlas(name: str) -> Atlas:
    """Return an atlas by its name, from nilearn's data folder or from its server, once."""
    if name not in _fetchers():
        near = nearest(name, _fetchers(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "docs/sharding.md lists them"
        raise UserError(f"labels_img: {name}: neither a file nor an atlas known by name; {hint}")
    from nilearn import datasets

    (fetcher, options), cache = _fetchers()[name], cache_folder(None)
    with writing_to(cache):
        cache.mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time: nilearn's temporary folder has the same name in all of them.
        with FileLock(cache / "atlases.lock"), warnings.catch_warnings(action="ignore"):
            atlas = getattr(datasets, f"fetch_atlas_{fetcher}")(**options, verbose=0)
        numbers, names = atlas.lut["index"].astype(int), atlas.lut["name"].astype(str)
        labels = dict(zip(numbers.tolist(), names.tolist(), strict=True))
    except Exception as error:  # whatever networks, archives and half-written tables raise
        call = f"fetch_atlas_{fetcher}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
        command = f'python -c "from nilearn.datasets import *; {call}"'
        remedy = f"run {command} where there is a network, and copy its nilearn_data here"
        what = f"could be neither downloaded nor read in {datasets.get_data_dirs()[0]}"
        raise UserError(f"labels_img: {name}: {what} ({type(error).__name__}); {remedy}") from error
    return Atlas(name, Path(atlas.get("filename", atlas.maps)), labels, str(atlas.template))
