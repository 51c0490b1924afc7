"""File names of before BIDS derivatives had theirs, as the names that the same files have today.

fMRIPrep 1.0 and 1.1 and the ABCD-BIDS pipeline keep `_bold` in the middle of a name:

    sub-01_task-rest_bold_space-MNI152NLin2009cAsym_preproc.nii.gz
    sub-01_task-rest_bold_space-MNI152NLin2009cAsym_variant-smoothAROMAnonaggr_preproc.nii.gz
    sub-01_task-rest_bold_space-MNI152NLin2009cAsym_brainmask.nii.gz
    sub-01_task-rest_bold_space-fsaverage5.L.func.gii
    sub-01_task-rest_bold_confounds.tsv
    sub-01_ses-a_task-rest_run-1_bold_timeseries.dtseries.nii
    sub-01_ses-a_task-rest_bold_atlas-HCP2016FreeSurferSubcortical_desc-filtered_timeseries.ptseries.nii
"""

import re

_MIDDLE = "_bold_"
_RULES = [
    (re.compile(rule), new)
    for rule, new in (
        (r"_bold((?:_space-[^_.]+)?)_variant-([^_.]+)_preproc(\.nii(?:\.gz)?)$", r"\1_desc-\2_bold\3"),
        (r"_bold((?:_space-[^_.]+)?)_preproc(\.nii(?:\.gz)?)$", r"\1_desc-preproc_bold\2"),
        (r"_bold((?:_space-[^_.]+)?)_brainmask(\.nii(?:\.gz)?)$", r"\1_desc-brain_mask\2"),
        (r"_bold_(space-[^_.]+)\.([LR])\.func\.gii$", r"_\1_hemi-\2.func.gii"),
        (r"_bold_confounds\.tsv$", r"_desc-confounds_regressors.tsv"),
        (r"_bold((?:_[a-z]+-[^_.]+)*_timeseries\.[dp]tseries\.nii)$", r"\1"),
        (r"_bold((?:_[a-z]+-[^_.]+)*)_roi(\.nii(?:\.gz)?)$", r"\1_dseg\2"),
    )
]


def current_name(file: str) -> str:
    """Return what a file would be called today; any other name as it is."""
    if _MIDDLE not in file:
        return file
    for rule, new in _RULES:
        name, n_changes = rule.subn(new, file)
        if n_changes:
            return name
    return file
