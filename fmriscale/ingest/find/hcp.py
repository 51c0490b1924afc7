"""The folders of the Human Connectome Project's pipelines.

    <subject>/MNINonLinear/Results/<run>/<run>[_hp2000_clean].nii.gz
                                         <run>_Atlas[_MSMAll][_hp2000_clean].dtseries.nii
                                         brainmask_fs.2.nii.gz, Movement_RelativeRMS.txt, EVs/*.txt

`entities: {desc: ...}` chooses among the files of a run: `desc` is what stands between the run's name and
the extension without `_Atlas`, such as `hp2000_clean` or `MSMAll_hp2000_clean`, and '' where nothing does.
A folder is a run if its name has the direction of phase encoding (`rfMRI_REST1_LR`, `tfMRI_MOVIE1_7T_AP`)
or BIDS entities (`task-rest_run-01_bold`). Others hold several runs joined (`rfMRI_REST`) and are left out,
unless name_pattern describes the names of runs.
"""

import re
from pathlib import Path
from typing import Any

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.choice import Listing, Scan
from fmriscale.ingest.find.forms import file_ends
from fmriscale.ingest.find.names import parse_name
from fmriscale.ingest.find.tree import Tree

RESULTS = Path("MNINonLinear/Results")

_RUN = re.compile(r"[rt]?fMRI_(?P<task>[A-Za-z]+\w*?)(?P<run>\d+)?(_(?P<acq>\d+T))?_(?P<dir>AP|PA|LR|RL)")
_VISIT = re.compile(r"(?P<sub>.+)_(?P<ses>V\d+\w*)_MR")
_CLEANING = r"((?:_(?:hp[0-9a-z]+|clean|rclean|tclean))*)"


def find_hcp(dataset: DatasetConfig, root: Path, tree: Tree) -> Listing:
    """List the time series of every run of every subject below root, and subjects that were not fetched."""
    ends = file_ends(dataset)
    scans, runs, joined = [], set(), set()
    for subject in tree.folder(root).folders:
        results = root / subject / RESULTS
        for run in tree.folder(results).folders:
            entities = run_entities(run)
            if entities is None and dataset.name_pattern is None:
                joined.add(run)
                continue
            runs.add(run)
            own = subject_entities(subject) | (entities or {})
            for file in tree.folder(results / run).files:
                desc = _processing(file, run, ends)
                if desc is not None:
                    source = (Path(subject) / RESULTS / run / file).as_posix()
                    scans.append(Scan(results / run / file, source, own | ({"desc": desc} if desc else {})))
    if not scans:
        hint = "root must be the folder that holds the subjects"
        if runs:
            hint = f"there are {', '.join(sorted(runs)[:8])}: choose features to fit"
        elif joined:
            names = ", ".join(sorted(joined)[:8])
            hint = f"there are {names}, none named like rfMRI_REST1_LR: set name_pattern"
        raise UserError(f"no run with *{ends[0]} in {root}/*/{RESULTS.as_posix()}; {hint}")
    subjects = {name: tree.folder(root / name) for name in tree.folder(root).folders}
    empty = [name for name, content in subjects.items() if not (content.folders or content.files)]
    detail = "the folder is empty: fetch it (datalad get), or remove it"
    return Listing(scans, remarks=[Rejection(dataset.name, name, "no_scans", detail) for name in empty])


def subject_entities(folder: str) -> dict[str, str]:
    """Return subject and visit: HCA6002236_V1_MR is the same person as HCA6002236_V2_MR."""
    visit = _VISIT.fullmatch(folder)
    return visit.groupdict() if visit else {"sub": folder.removeprefix("sub-")}


def run_entities(folder: str) -> dict[str, str] | None:
    """Return task, run, field strength and direction of a run's folder; None for several runs joined."""
    if match := _RUN.fullmatch(folder):
        return {k: v.lower() if k == "task" else v for k, v in match.groupdict().items() if v is not None}
    parsed = parse_name(f"{folder}.nii.gz")
    return parsed.entities if parsed and "task" in parsed.entities else None


def _processing(file: str, run: str, ends: tuple[str, ...]) -> str | None:
    """Return the processing that the name of a run's time series states; None for other files."""
    for end in ends:
        if file.startswith(run) and file.endswith(end):
            rest = file[len(run) : -len(end)]
            match = re.fullmatch(_CLEANING if end in (".nii.gz", ".nii") else r"_Atlas([\w.]*)", rest)
            return match[1].strip("_") if match else None
    return None


def companions(tree: Tree, path: Path, form: str, with_evs: bool) -> dict[str, Any]:
    """Return the brain mask of a volume, the table of head motion, and the events of a task run."""
    files, folder = tree.folder(path.parent).files, path.parent
    masks = [n for n in files if form == "nifti" and re.fullmatch(r"brainmask_fs\..*nii\.gz", n)]
    motion = "Movement_RelativeRMS.txt"
    evs = tree.folder(folder / "EVs").files if with_evs else []  # Sync.txt holds the start of the scan
    return {
        "brain_mask": folder / masks[0] if masks else None,
        "motion": folder / motion if motion in files else None,
        "evs": tuple(folder / "EVs" / n for n in evs if n.endswith(".txt") and n != "Sync.txt"),
    }
