"""Confounds that other programs have written anew, and cleaning that would be weaker than asked for."""

import json
import warnings
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from scans import confounds, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DenoiseConfig
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.clean.confounds import read_confounds
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

N = 60
TABLE = confounds(N)
TEXT = TABLE.to_csv(sep="\t", index=False, na_rep="n/a")
MOTION = DenoiseConfig(strategy=["motion", "scrub"], motion="basic", fd_threshold=0.15, scrub=0)


def read(tmp_path, text=TEXT, denoise=MOTION, n_volumes=N, about=None):
    file = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    if about is not None:
        file.with_suffix(".json").write_text(json.dumps(about))
    return read_confounds(file, denoise, n_volumes)


def lines(change, text=TEXT):
    """Change every line but the empty one at the end."""
    return "".join(change(n, line) + "\n" for n, line in enumerate(text.splitlines()))


def cells(change):
    """Change every cell below the header."""
    return lines(lambda n, line: line if n == 0 else "\t".join(map(change, line.split("\t"))))


TWICE = TEXT.replace("trans_x\t", "trans_x\ttrans_x\t", 1)

READS = {
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "byte order mark and CRLF": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
    "CRLF": TEXT.replace("\n", "\r\n"),
    "CR": TEXT.replace("\n", "\r"),
    "UTF-16": TEXT.encode("utf-16"),
    "blank lines at the end": TEXT + "\n\n",
    "no newline at the end": TEXT.rstrip("\n"),
    "trailing tabs": lines(lambda n, line: line + "\t"),
    "trailing tabs but for the header": lines(lambda n, line: line + "\t" * (n > 0)),
    "trailing blanks": lines(lambda n, line: line + " "),
    "NaN": TEXT.replace("n/a", "NaN"),
    "NA": TEXT.replace("n/a", "NA"),
    "empty": TEXT.replace("n/a", ""),
    "commas": TEXT.replace("\t", ","),
    "semicolons": TEXT.replace("\t", ";"),
    "blanks": TEXT.replace("\t", "   "),
    "quotes": lines(lambda n, line: '"' + line.replace("\t", '"\t"') + '"' if n == 0 else line),
    "index of pandas": TABLE.to_csv(sep="\t", na_rep="n/a"),
    "index of pandas, read and written": TABLE.to_csv(sep="\t", na_rep="n/a", index_label="Unnamed: 0"),
    "index of R": TABLE.to_csv(sep="\t", na_rep="n/a", index_label=False),
    "a column twice with the same numbers": lines(
        lambda n, line: "trans_x\t" + line if n == 0 else line.split("\t")[0] + "\t" + line
    ),
    "another column twice": lines(lambda n, line: ("note\tnote\t" if n == 0 else "1\t2\t") + line),
    "words in another column": lines(lambda n, line: ("note\t" if n == 0 else "good\t") + line),
    "an odd letter": lines(lambda n, line: ("gr\xf6\xdfe\t" if n == 0 else "1\t") + line).encode("latin-1"),
}


@pytest.mark.parametrize("case", READS)
def test_a_table_written_anew_is_read_where_that_is_sure(tmp_path, case):
    expected, found = read(tmp_path), read(tmp_path, READS[case])
    pd.testing.assert_frame_equal(found.regressors, expected.regressors)
    assert expected.sample_mask is not None and len(expected.sample_mask) < N
    assert found.sample_mask.tolist() == expected.sample_mask.tolist()
    assert found.mean_fd == expected.mean_fd
    quiet = read(tmp_path, READS[case], DenoiseConfig())
    assert (quiet.regressors, quiet.mean_fd) == (None, expected.mean_fd)


REFUSED = {
    "decimal commas": (TEXT.replace(".", ","), "unreadable", "decimal commas .*line 2.*decimal points"),
    "decimal commas, semicolons": (
        TEXT.replace(".", ",").replace("\t", ";"),
        "unreadable",
        "decimal commas",
    ),
    "decimal commas between commas": (TEXT.replace(".", ",").replace("\t", ","), "unreadable", "commas"),
    "no header": (lines(lambda n, line: line).split("\n", 1)[1], "unreadable", "no line of column names"),
    "a line cut short": (TEXT[:-40], "unreadable", "line 61 has .* cells under 36 column names"),
    "a line too long": (TEXT.replace("\n", "\n1\t", 1), "unreadable", "line 2 has 37 cells under 36"),
    "two tables": (TEXT + TEXT, "unreadable", "line 62 repeats the column names"),
    "empty": ("", "unreadable", "empty"),
    "framewise displacement twice": (
        lines(lambda n, line: ("framewise_displacement\t" if n == 0 else f"{n}\t") + line),
        "confounds",
        "framewise_displacement is there twice with different numbers; keep one",
    ),
    "words": (
        lines(lambda n, line: line.rsplit("\t", 2)[0] + "\tmissing\t1" if n == 9 else line),
        "unreadable",
        "framewise_displacement holds 'missing' in line 10",
    ),
    "too few rows": (TEXT.rsplit("\n", 2)[0] + "\n", "confounds_length", "59 rows, the image 60 volumes"),
}


@pytest.mark.parametrize("denoise", [MOTION, DenoiseConfig()], ids=["motion", "no strategy"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_read_is_called_what_it_is(tmp_path, case, denoise):
    text, reason, words = REFUSED[case]
    with pytest.raises(Rejected, match=words) as caught:
        read(tmp_path, text, denoise)
    assert caught.value.reason == reason
    assert len(caught.value.detail) < 250


def test_columns_of_a_strategy_that_are_words_or_there_twice_are_named(tmp_path):
    twice = lines(lambda n, line: ("trans_x\t" if n == 0 else f"{n}\t") + line)
    assert read(tmp_path, twice, DenoiseConfig()).mean_fd is not None
    with pytest.raises(Rejected, match=r"confounds.*trans_x is there twice"):
        read(tmp_path, twice)
    words = lines(lambda n, line: "here\t" + line.split("\t", 1)[1] if n == 5 else line)
    assert read(tmp_path, words, DenoiseConfig()).mean_fd is not None
    with pytest.raises(Rejected, match=r"unreadable.*trans_x holds 'here' in line 6, no number") as caught:
        read(tmp_path, words)
    assert len(caught.value.detail) < 200


UNREAD = {
    "numbers": ("a_comp_cor_00", "0.5"),
    "words": ("w_comp_cor_12", "good"),
    "n/a": ("t_comp_cor_00", "n/a"),
    "outliers": ("motion_outlier00", "0"),
    "quoted tabs": ("c_comp_cor_01", '"1\t2"'),
}


@pytest.mark.parametrize("place", [0, 7, 36])
@pytest.mark.parametrize("case", UNREAD)
def test_columns_that_no_strategy_reads_change_nothing(tmp_path, case, place):
    name, cell = UNREAD[case]
    separator = "," if "tabs" in case else "\t"

    def wider(n, line):
        parts = line.split("\t")
        return separator.join([*parts[:place], name if n == 0 else cell, *parts[place:]])

    expected, found = read(tmp_path), read(tmp_path, lines(wider))
    pd.testing.assert_frame_equal(found.regressors, expected.regressors)
    assert found.sample_mask.tolist() == expected.sample_mask.tolist()
    assert (found.mean_fd, found.warnings) == (expected.mean_fd, expected.warnings)


def test_an_empty_cell_is_a_volume_where_one_column_alone_is_read(tmp_path):
    text = "cosine00\ta_comp_cor_00\n" + "".join(f"{n if n != 9 else ''}\t1\n" for n in range(N))
    with pytest.raises(Rejected, match=r"confounds.*cosine00 is n/a in more than the first volume"):
        read(tmp_path, text, DenoiseConfig(strategy=["high_pass"]))


# ---------------------------------------------------------------- cleaning as strong as asked for


def written(**columns):
    return TABLE.assign(**columns).to_csv(sep="\t", index=False, na_rep="n/a")


FD, DVARS = TABLE.framewise_displacement, TABLE.std_dvars


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"framewise_displacement": np.nan}, "framewise_displacement, which is n/a in 59 of 60"),
        ({"std_dvars": np.nan}, "std_dvars, which is n/a in 59 of 60"),
        ({"std_dvars": DVARS.where(DVARS.index > 4)}, "std_dvars, which is n/a in 4 of 60"),
        ({"framewise_displacement": FD.where(FD.index != 30)}, "n/a in 1 of 60"),
    ],
)
def test_scrub_by_what_is_not_known_is_refused(tmp_path, columns, words):
    denoise = DenoiseConfig(strategy=["motion", "scrub"], motion="basic")
    with pytest.raises(Rejected, match=f"confounds.*scrub needs .*{words}"):
        read(tmp_path, written(**columns), denoise)


def test_scrub_may_lack_what_is_dropped_or_censored(tmp_path):
    dropping = DenoiseConfig(strategy=["scrub"], dummy_volumes=4)
    found = read(tmp_path, written(std_dvars=DVARS.where(DVARS.index > 4)), dropping)
    assert found.sample_mask is None or len(found.sample_mask) == N - 4
    flagged = written(
        framewise_displacement=FD.where(FD.index != 30), non_steady_state_outlier00=np.eye(N, dtype=int)[30]
    )
    assert 30 not in read(tmp_path, flagged, DenoiseConfig(strategy=["scrub"], scrub=0)).sample_mask


def test_motion_that_is_mostly_unknown_has_no_mean(tmp_path):
    nothing = DenoiseConfig()
    assert read(tmp_path, written(framewise_displacement=np.nan), nothing).mean_fd is None
    assert read(tmp_path, written(framewise_displacement=FD.where(FD.index > 40)), nothing).mean_fd is None
    some = read(tmp_path, written(framewise_displacement=FD.where(FD.index > 20)), nothing).mean_fd
    assert some == pytest.approx(FD[21:].mean())


def components(**masks):
    """Components in a table and its .json; masks: prefix: {mask: how many}."""
    rng = np.random.default_rng(5)
    names = {f"{p}_comp_cor_{n:02d}": m for p, of in masks.items() for n, m in enumerate(chain(*of))}
    table = written(**{name: rng.normal(size=N) for name in names})
    return table, {name: {"Mask": mask} if mask else {"Retained": True} for name, mask in names.items()}


@pytest.mark.parametrize(
    ("masks", "compcor", "n_compcor", "expected"),
    [
        ({"a": [["combined"] * 6]}, "anat_combined", 6, 6),
        ({"a": [["combined"] * 3, ["CSF"] * 9]}, "anat_combined", 6, "3 components of anat_combined.* 6;"),
        ({"a": [["WM"] * 4, ["CSF"] * 4]}, "anat_separated", 4, 8),
        (
            {"a": [["WM"] * 6, ["CSF"] * 4]},
            "anat_separated",
            6,
            r"4 components of anat_separated \(CSF\).* 6",
        ),
        ({"w": [["WM"] * 6], "c": [["CSF"] * 6]}, "anat_separated", 6, 12),
        ({"w": [["WM"] * 2], "c": [["CSF"] * 6]}, "anat_separated", 6, r"2 .* \(WM\).* 6"),
        ({"t": [[None] * 6]}, "temporal", 6, 6),
        ({"t": [[None] * 5]}, "temporal", 6, "5 components of temporal.* 6; set denoise.n_compcor: 5"),
        ({"t": [[None] * 6]}, "anat_combined", 6, "0 components of anat_combined.* 6; choose"),
    ],
)
def test_fewer_components_than_asked_for_are_refused_with_both_numbers(
    tmp_path, masks, compcor, n_compcor, expected
):
    table, about = components(**masks)
    denoise = DenoiseConfig(strategy=["high_pass", "compcor"], compcor=compcor, n_compcor=n_compcor)
    if isinstance(expected, int):
        found = read(tmp_path, table, denoise, about=about).regressors
        assert found is not None and sum("comp_cor" in name for name in found) == expected
        return
    with pytest.raises(Rejected, match=f"confounds.*{expected}"):
        read(tmp_path, table, denoise, about=about)


def test_components_must_be_in_the_table_and_the_json_must_be_one(tmp_path):
    table, about = components(a=[["combined"] * 6])
    denoise = DenoiseConfig(strategy=["high_pass", "compcor"])
    shorter = table.replace("a_comp_cor_05", "a_comp_cor_xx")
    with pytest.raises(Rejected, match=r"confounds.*5 components .* 6"):
        read(tmp_path, shorter, denoise, about=about)
    with pytest.raises(Rejected, match=r"unreadable.*confounds_timeseries.json: not readable as JSON"):
        read(tmp_path, table, denoise, about=["a_comp_cor_00"])


@pytest.mark.parametrize(
    ("columns", "strategy", "words"),
    [
        ({"csf": 0.0}, "wm_csf", "csf is the same in every volume"),
        ({"trans_x": 1.0, "rot_z": 0.0}, "motion", "rot_z and 1 more columns are the same"),
        ({"cosine00": 0.0}, "high_pass", "cosine00 is the same"),
        ({"csf": np.inf}, "wm_csf", "csf is infinite"),
    ],
)
def test_regressors_that_do_nothing_are_refused(tmp_path, columns, strategy, words):
    with pytest.raises(Rejected, match=f"confounds.*{words}"):
        read(tmp_path, written(**columns), DenoiseConfig(strategy=[strategy], motion="basic"))


def test_what_nilearn_warns_of_is_told(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, denoise=DenoiseConfig(strategy=["motion", "non_steady_state"])).warnings == ()
        all_bad = DenoiseConfig(strategy=["motion", "scrub"], fd_threshold=1e-9)
        told = read(tmp_path, denoise=all_bad).warnings
    assert len(told) == 1 and told[0].startswith("All volumes were marked as motion outliers")


def process(root, table=None, n_volumes=N, **denoise):
    write_fmriprep_run(root, "01", n_volumes=n_volumes, **({} if table is None else {"table": table}))
    given = dataset(root, write_atlas(root / "atlas.nii.gz"), denoise=DenoiseConfig(**denoise))
    return process_run(find_runs(given)[0][0], given)


def test_more_regressors_than_volumes_are_refused_with_both_numbers(tmp_path):
    for n_volumes, lands in ((24, False), (28, True)):
        found = process(tmp_path / str(n_volumes), n_volumes=n_volumes, strategy=["motion"])
        if lands:
            assert isinstance(found, EncodedRun)
            continue
        assert isinstance(found, Rejection) and found.reason == "confounds"
        assert "24 regressors explain all that 24 uncensored volumes" in found.detail


def test_a_run_is_the_same_whoever_wrote_its_confounds(tmp_path):
    runs = []
    for name, marks in (("plain", ""), ("marked", "\ufeff")):
        write_fmriprep_run(tmp_path / name, "01", n_volumes=N)
        file = next((tmp_path / name).rglob("*confounds_timeseries.tsv"))
        file.write_text(marks + file.read_text())
        atlas = write_atlas(tmp_path / name / "atlas.nii.gz")
        given = dataset(tmp_path / name, atlas, denoise=MOTION)
        runs.append(process_run(find_runs(given)[0][0], given))
    assert all(isinstance(run, EncodedRun) for run in runs)
    assert runs[0] == runs[1]
