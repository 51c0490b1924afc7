"""People who are kin are never parted: neither by splits nor by folds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scans import corpus, dataset

from fmriscale.common.errors import UserError
from fmriscale.config import CorpusConfig, FeatureConfig, QualityConfig, SplitConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.assemble import groups_of
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.plan import make_plan
from fmriscale.study.folds import make_folds

SPLIT = SplitConfig(val=0.3, test=0.3, group="family")


def study(root: Path, rows: dict[str, str], name: str = "toy", column: str = "family", **settings):
    """Arrays of one run a person, and the table that tells their families."""
    root.mkdir(exist_ok=True)
    noise = np.random.default_rng(list(name.encode()))
    for subject in rows:
        np.save(root / f"sub-{subject}_bold.npy", noise.normal(size=(20, 3)))
    lines = [f"participant_id\t{column}\tage", *(f"sub-{s}\t{cell}\t{30}" for s, cell in rows.items())]
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    given = {"kind": "arrays", "files": "*.npy", "t_r": 2.0, "participants": "participants.tsv"}
    features = FeatureConfig(name="three", columns=3)
    return dataset(
        root, name=name, features=features, quality=QualityConfig(min_volumes=5), **(given | settings)
    )


def families(n: int) -> dict[str, str]:
    """Two people each; every fifth person stands alone."""
    return {f"{i:02d}": ["", "n/a"][i % 2] if i % 5 == 0 else f"f{i // 2}" for i in range(n)}


def runs_of(folder: Path):
    return Corpus.open(folder).runs.set_index("person")


def test_families_go_to_one_split_and_adding_people_moves_nobody(tmp_path):
    few = study(tmp_path / "few", families(16))
    many = study(tmp_path / "many", families(40))
    for name, given in (("a", few), ("b", many)):
        build(corpus(tmp_path / name, given, split=SPLIT))
    before, after = runs_of(tmp_path / "a"), runs_of(tmp_path / "b")
    assert (after.groupby("group").split.nunique() == 1).all() and after.split.nunique() == 3
    assert after.group["toy/01"] == "toy/f0" and after.group["toy/00"] == "toy/00"  # the cell is empty
    assert (after.loc[before.index, ["split", "group"]] == before[["split", "group"]]).all().all()
    corpus_ = Corpus.open(tmp_path / "b")
    assert corpus_.record(0)["participant"] == {} and corpus_.manifest["split"]["group"] == "family"


def test_the_column_changes_the_manifest_alone(tmp_path):
    given = study(tmp_path / "in", families(12))
    build(corpus(tmp_path / "c", given))
    plain = Corpus.open(tmp_path / "c")
    assert "group" not in plain.runs and "group" not in plain.manifest["split"]
    shard = tmp_path / "c/toy/toy-000000.tar"
    time = shard.stat().st_mtime_ns
    build(corpus(tmp_path / "c", given, split=SplitConfig(group="family")))
    kin = Corpus.open(tmp_path / "c")
    assert shard.stat().st_mtime_ns == time and kin.manifest["shards"] == plain.manifest["shards"]
    assert kin.manifest["fingerprint"] != plain.manifest["fingerprint"]


def test_families_of_two_data_sets_are_others_unless_they_share_people(tmp_path):
    one = study(tmp_path / "one", {"01": "a", "02": "a"}, "one")
    two = study(tmp_path / "two", {"01": "a", "03": "a"}, "two")
    build(corpus(tmp_path / "c", one, two, split=SPLIT))
    assert set(runs_of(tmp_path / "c").group) == {"one/a", "two/a"}
    shared = [dataclasses.replace(d, people="lab") for d in (one, two)]
    build(corpus(tmp_path / "d", *shared, split=SPLIT))
    assert set(runs_of(tmp_path / "d").group) == {"lab/a"}
    bare = study(tmp_path / "bare", {"09": "a"}, "bare", column="site")
    plan = make_plan(corpus(tmp_path / "e", one, bare, split=SPLIT))
    assert "data set 'bare': no column 'family': its people stand alone" in plan.notes


def test_a_group_that_cannot_be_told_is_refused(tmp_path):
    one = study(tmp_path / "one", {"01": "a"}, "one", people="lab")
    two = study(tmp_path / "two", {"01": "b"}, "two", people="lab")
    with pytest.raises(UserError, match="column family gives two groups to lab/01: a and b; give one"):
        make_plan(corpus(tmp_path / "c", one, two, split=SPLIT))
    with pytest.raises(UserError, match="no participants table has a column 'kin': one has participant_id"):
        make_plan(corpus(tmp_path / "c", one, split=SplitConfig(group="kin")))
    unknown = [("p/1", "p", cell) for cell in ("", " ", "n/a", "N/A", "nan", None, "f1", " f1 ")]
    assert groups_of(unknown, "family") == {"p/1": "p/f1"}  # one row knows, the others do not


@pytest.mark.realdata
def test_no_twins_are_parted_in_qtab(data_root, tmp_path):
    if not (data_root / "qtab_partlycloudy_shen293").is_dir():
        pytest.skip("no QTAB under FMRISCALE_DATA")
    recipe = ["--config", "configs/corpus_qtab.yaml", "--out", str(tmp_path), "--jobs", "1"]
    build(parse(CorpusConfig, recipe, prog="fmriscale-shard"))
    runs = Corpus.open(tmp_path).runs
    assert (runs.person.nunique(), runs.group.nunique()) == (289, 151)
    assert (runs.groupby("group").split.nunique() == 1).all() and runs.split.nunique() == 3
    for fold in make_folds(runs, "subject", 10):
        assert not set(runs.group[fold.train]) & set(runs.group[fold.test])
