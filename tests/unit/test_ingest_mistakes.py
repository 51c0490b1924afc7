"""What a user can get wrong about the files of a data set: one line, naming the remedy."""

from pathlib import Path
from typing import Any

import pytest
from scans import dataset, grow

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.ingest.find.sources import find_runs

VOLUMES = FeatureConfig(name="f", labels_img="atlas.nii.gz")
GRAYORDINATES = FeatureConfig(name="f", structures=["all"])
SURFACES = FeatureConfig(name="f", labels_gii=["lh.label.gii", "rh.label.gii"])
COLUMNS = FeatureConfig(name="f", columns=4)
FUNC = "sub-01/func/sub-01_task-tones_run-01"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"root": "nowhere"}, "is no folder; set root"),
        ({"root": "$NO_SUCH_VARIABLE/x"}, "the environment variable NO_SUCH_VARIABLE is not set"),
        ({"root": "file.txt"}, "is a file; set root to the folder"),
        ({"root": "above"}, "there are subjects in .*above/raw: set root to it"),
        ({"root": "above/raw/sub-01"}, "there are subjects in .*above/raw: set root to it"),
        ({"root": "empty"}, "root must be the folder that holds sub-\\*"),
        ({"root": "above/raw"}, "has {desc: preproc}.*looks like raw data: kind: bids"),
        (
            {"kind": "bids", "entities": {"task": "rest"}},
            r"no file in .* has {task: rest}; there are task: tones",
        ),
        ({"kind": "bids", "features": SURFACES}, r"no \*_bold.func.gii .*there are \*_bold.nii.gz"),
        ({"entities": {"subject": "01"}}, "'subject' is no BIDS entity; did you mean 'sub'"),
        ({"entities": {"tsk": "rest"}}, "'tsk' is no BIDS entity; did you mean 'task'"),
        ({"entities": {"hemi": "L"}}, "both hemispheres; remove hemi"),
        ({"files": "/abs/*.nii.gz"}, "files: '/abs/.*' is no glob below root"),
        ({"files": ""}, "files: '' is no glob"),
        ({"files": "*.nii.gz"}, r"no .nii.gz/.nii matches .*\*.nii.gz"),
        (
            {"files": "**/*_bold.*", "features": GRAYORDINATES},
            "no .dtseries.nii matches .*; 1 others do, e.g. sub-01",
        ),
        (
            {"kind": "bids", "files": "**/*.nii.gz", "name_pattern": "(?P<subject>x+)"},
            "matches none of 1 paths",
        ),
        ({"name_pattern": "(?P<subject"}, "name_pattern is no regular expression"),
        ({"name_pattern": r"sub-(\d+)"}, "no named group; write e.g."),
        ({"name_pattern": r"(?P<site>\w+)"}, "no group may be called 'site'; use id, subject"),
        ({"events": "{dir}/{subj}.tsv"}, "no run has {subj}; use"),
        ({"events": "{dir"}, "is no template"),
        ({"features": COLUMNS}, "kind fmriprep needs features with labels_img or mask_img .* not columns"),
        ({"kind": "arrays"}, "kind arrays needs features with columns, not labels_img or mask_img"),
        ({"kind": "arrays", "features": COLUMNS}, "kind arrays needs files"),
        ({"kind": "hcp"}, r"no run with \*.nii.gz in .*root must be the folder that holds the subjects"),
        ({"kind": "hcp", "files": "*"}, "choose by entities: {desc: ...} instead of files"),
        ({"kind": "hcp", "features": SURFACES}, "kind hcp needs features with"),
        ({"orientation": "VT"}, "orientation is for kind arrays"),
        ({"variable": "ts"}, "variable is for kind arrays"),
        ({"participants_t_r": "tr"}, "participants_t_r needs participants"),
        ({"participants_columns": ["sex"]}, "participants_columns needs participants"),
        ({"kind": "bids", "participants": "people.tsv"}, "there is no .*people.tsv; set participants"),
        (
            {"kind": "bids", "participants": "twice.tsv"},
            "no column 'participant_id'; set participants_key, it has id",
        ),
        (
            {
                "kind": "bids",
                "participants": "twice.tsv",
                "participants_key": "id",
                "participants_columns": ["age"],
            },
            "no column 'age'; set participants_columns, it has id, tr",
        ),
        (
            {"kind": "bids", "participants": "twice.tsv", "participants_key": "id", "participants_t_r": "tr"},
            "rows 'a' in column id contradict each other",
        ),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_their_remedy(tmp_path, settings, words):
    raw = grow(tmp_path / "above/raw", f"{FUNC}_bold.nii.gz")
    grow(tmp_path, "file.txt", "empty/.keep")
    (raw / "twice.tsv").write_text("id\ttr\na\t1\na\t2\n")
    named = settings.get("root", "above/raw")
    root = Path(named) if named.startswith("$") else tmp_path / named
    given: dict[str, Any] = {"features": VOLUMES} | {k: v for k, v in settings.items() if k != "root"}
    with pytest.raises(UserError, match=words) as refusal:
        find_runs(dataset(root, **given))
    assert str(refusal.value).startswith("data set 'toy': ") or str(raw) in str(refusal.value)
    assert "\n" not in str(refusal.value)
