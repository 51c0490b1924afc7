"""Recipes: file, overrides, refusals by name, hash, and the way back to a file."""

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from fmriscale import config
from fmriscale.common.errors import UserError
from fmriscale.config import CorpusConfig, PretrainConfig, ProbeConfig, SimulateConfig, StudyConfig
from fmriscale.config.recipe import config_hash, parse, save_config, to_dict

DATASET = {"name": "a", "kind": "arrays", "root": "x", "features": {"name": "f", "columns": 3}}
MINIMAL = {
    CorpusConfig: {"out": "corpora/a", "datasets": [DATASET]},
    PretrainConfig: {"out": "runs/a", "data": {"corpus": "corpora/a", "holdout_runs": ["*_run-01"]}},
    StudyConfig: {"out": "studies/a", "corpus": "corpora/a", "pretrained": None, "seeds": [0, 1]},
    ProbeConfig: {"out": "probes/a", "corpus": "corpora/a", "target": "dx", "n_folds": 4},
    SimulateConfig: {"out": "demo/derivative", "shape": [4, 5, 6]},
}
PREFIXES = {
    "corpus_": CorpusConfig,
    "pretrain_": PretrainConfig,
    "probe_": ProbeConfig,
    "simulate_": SimulateConfig,
}
RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def recipe(folder: Path, cls: type, **changes: object) -> str:
    """A recipe file of a class, complete but for its defaults."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL[cls], **changes}))
    return str(path)


def test_a_file_fills_the_settings_and_later_options_override_it(tmp_path: Path):
    file = recipe(tmp_path, PretrainConfig, train={"lr": 0.5, "steps": 7})
    parsed = parse(PretrainConfig, ["--config", file, "--train.lr", "3e-4", "--data.pairs.length", "9"])
    assert (parsed.train.lr, parsed.train.steps, parsed.data.pairs.length) == (3e-4, 7, 9)
    assert parsed.data.corpus == str(tmp_path / "corpora/a")  # relative to the recipe


@pytest.mark.parametrize("launcher", ["--local_rank=3", "--local-rank=3"])
def test_the_rank_that_launchers_put_first_is_accepted(tmp_path: Path, launcher: str):
    args = ["--config", recipe(tmp_path, PretrainConfig)]
    assert parse(PretrainConfig, [launcher, *args]) == parse(PretrainConfig, args)


@pytest.mark.parametrize(
    ("cls", "changes", "options", "words"),
    [
        (PretrainConfig, {}, ["--train.lrr=1"], ["train.lrr", "'train.lr'"]),
        (PretrainConfig, {}, ["--train.step=5"], ["train.step", "'train.steps'"]),
        (PretrainConfig, {"train": {"stepps": 3}}, [], ["stepps", "'train.steps'"]),
        (PretrainConfig, {"trian": {"steps": 3}}, [], ["line 6", "'trian'", "'train'"]),
        (CorpusConfig, {"datasets": [{**DATASET, "wieght": 2}]}, [], ["wieght", "'weight'"]),
        (
            CorpusConfig,
            {"datasets": [{**DATASET, "features": {"name": "f", "colums": 3}}]},
            [],
            ["line 3: datasets[0] 'a'", "'features.columns'"],
        ),
        (
            CorpusConfig,
            {"datasets": [{**DATASET, "denoize": {}}]},
            [],
            ["datasets[0] 'a'", "'denoize'", "'denoise'"],
        ),
        (
            CorpusConfig,
            {"datasets": [DATASET, {**DATASET, "denoise": {"detrendd": {}}}]},
            [],
            ["datasets[1] 'a'", "'denoise.detrendd'", "'denoise.detrend'"],
        ),
        (CorpusConfig, {"spilt": {}}, [], ["spilt", "'split'"]),
        (StudyConfig, {"task": {"lable": "timbre"}}, [], ["lable", "'task.label'"]),
        (SimulateConfig, {"n_subject": 3}, [], ["n_subject", "'n_subjects'"]),
    ],
)
def test_an_unknown_key_is_refused_by_name_with_the_nearest(tmp_path: Path, cls, changes, options, words):
    with pytest.raises(UserError) as refusal:
        parse(cls, ["--config", recipe(tmp_path, cls, **changes), *options])
    message = str(refusal.value)
    assert all(word in message for word in words) and "\n" not in message


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (PretrainConfig, ["--train.steps=many"], ["--train.steps", "'many'", "a whole number"]),
        (PretrainConfig, ["--train.steps=1.5"], ["--train.steps", "'1.5'", "a whole number"]),
        (PretrainConfig, ["--model.d_model=wide"], ["model.d_model", "'wide'", "a whole number or null"]),
        (PretrainConfig, ["--model.preset=huge"], ["model.preset", "'huge'", "paper"]),
        (PretrainConfig, ["--train.zero_stage=7"], ["zero_stage", "7", "0, 1, 2 or 3"]),
        (PretrainConfig, ["--data.pairs.length=0"], ["length", "at least 1"]),
        (PretrainConfig, ['--data.pairs.negatives={"same_day": 1}'], ["same_day", "same_run"]),
        (PretrainConfig, ['--data.pairs.negatives={"same_run": -1}'], ["negatives", "0 or more"]),
        (PretrainConfig, ["--train.lr=0"], ["train.lr", "above 0"]),
        (PretrainConfig, ["--train.global_batch=0"], ["train.global_batch", "at least 1"]),
        (PretrainConfig, ["--train.steps=-1"], ["train.steps", "at least 1"]),
        (PretrainConfig, ["--train.warmup_steps=-1"], ["train.warmup_steps", "at least 0"]),
        (PretrainConfig, ["--train.seed=-1"], ["train.seed", "at least 0"]),
        (PretrainConfig, ["--train.lr=.inf"], ["train.lr", "finite"]),
        (PretrainConfig, ["--train.weight_decay=-1"], ["train.weight_decay", "0 or more"]),
        (PretrainConfig, ["--model.n_heads=0"], ["model.n_heads", "at least 1"]),
        (StudyConfig, ["--model.n_layers=0"], ["model.n_layers", "at least 1"]),
        (StudyConfig, ["--model.dropout=1.5"], ["model.dropout", "below 1"]),
        (StudyConfig, ["--train.weight_decay=-1"], ["train.weight_decay", "0 or more"]),
        (StudyConfig, ["--train.head_lr=.inf"], ["train.head_lr", "finite"]),
        (StudyConfig, ["--splits=[train,tset]"], ["splits", "'tset'", "test"]),
        (StudyConfig, ["--train_sizes=[]"], ["train_sizes is empty", "null"]),
        (StudyConfig, ["--seeds=[-1]"], ["seeds", "0 or more"]),
        (StudyConfig, ["--train.lr=-1"], ["train.lr", "above 0"]),
        (StudyConfig, ["--seeds=[]"], ["seeds", "one or more"]),
        (StudyConfig, ["--seeds=[0,1,0]"], ["seeds", "each once"]),
        (StudyConfig, ["--jobs=-1"], ["jobs", "0 or more"]),
        (StudyConfig, ["--folds_by=day"], ["folds_by", "'day'", "subject"]),
        (CorpusConfig, ["--split.val=0.6", "--split.test=0.5"], ["0.6", "0.5", "more than everybody"]),
        (CorpusConfig, ["--split.val=20"], ["split.val", "share", "20"]),
        (CorpusConfig, ["--jobs=-3"], ["jobs", "0 or more", "-3"]),
        (CorpusConfig, ["--shard_runs=0"], ["shard_runs", "1 or more"]),
        (CorpusConfig, ["--out= "], ["out is empty", "folder"]),
        (SimulateConfig, ["--shape=[1,b]"], ["shape", "b"]),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_with_what_it_must_be(tmp_path, cls, options, words):
    with pytest.raises(UserError) as refusal:
        parse(cls, ["--config", recipe(tmp_path, cls), *options])
    message = str(refusal.value)
    assert all(word in message for word in words) and "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "fmriscale shard"]),
        ("- a\n", ["no mapping"]),
        ("out: [a\nb: 1\n", ["line 2", "not YAML"]),
        ("out: a\njobs: 1\njobs: 2\ndatasets: []\n", ["line 3", "'jobs'", "second time"]),
        (yaml.safe_dump(MINIMAL[StudyConfig]), ["a recipe of fmriscale finetune, not of fmriscale shard"]),
        (yaml.safe_dump({"out": "a"}), ["datasets is missing", "a list of mappings"]),
        (
            yaml.safe_dump({"out": "a", "datasets": [DATASET, {**DATASET, "name": "b", "kind": "niftis"}]}),
            ["datasets[1] 'b'", "'niftis'", "fmriprep, bids, xcpd, hcp or arrays"],
        ),
        (
            yaml.safe_dump({"out": "a", "datasets": [{**DATASET, "split": {"val": 0.1}}]}),
            ["datasets[0] 'a'", "'split' is a key of the recipe itself"],
        ),
        (yaml.safe_dump({"out": "a", "datasets": ["b"]}), ["datasets[0]", "'b' is no mapping"]),
        (
            yaml.safe_dump({**MINIMAL[CorpusConfig], "shard_mb": "x" * 99}),
            ["shard_mb", "xxx...", "a whole number"],
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_named_with_line_or_entry(tmp_path: Path, text: str, words: list[str]):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refusal:
        parse(CorpusConfig, ["--config", str(file), "--split.val", "0.2"], prog="fmriscale shard")
    message = str(refusal.value)
    assert message.startswith(f"{file}: ") and all(word in message for word in words) and "\n" not in message


def test_a_wrong_override_is_not_blamed_on_the_recipe(tmp_path: Path):
    with pytest.raises(UserError, match=r"^--split\.val: split\.val is 'abc'; it must be a number"):
        parse(CorpusConfig, ["--config", recipe(tmp_path, CorpusConfig), "--split.val", "abc"])
    with pytest.raises(UserError, match="give a recipe: --config FILE"):
        parse(CorpusConfig, [])
    with pytest.raises(UserError, match=r"given as --config mine\.yaml"):
        parse(CorpusConfig, ["mine.yaml"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"t_r": 2000}, ["2000 s", "seconds"]),
        ({"weight": -1}, ["weight", "-1"]),
        ({"quality": {"max_missing": 20}}, ["quality.max_missing", "share", "20"]),
        ({"quality": {"min_volumes": 0}}, ["quality.min_volumes", "1 or more"]),
        ({"quality": {"max_mean_fd": -0.5}}, ["quality.max_mean_fd", "-0.5", "null for no limit"]),
        ({"features": {"name": "f", "columns": 0}}, ["columns", "1 or more"]),
    ],
)
def test_a_setting_that_no_run_could_meet_is_refused_at_once(tmp_path: Path, changes: dict, words: list[str]):
    file = recipe(tmp_path, CorpusConfig, datasets=[{**DATASET, **changes}])
    with pytest.raises(UserError) as refusal:
        parse(CorpusConfig, ["--config", file])
    assert all(word in str(refusal.value) for word in ["datasets[0] 'a'", *words])


def test_features_need_exactly_one_meaning_of_their_columns(tmp_path: Path):
    for features in ({"name": "f"}, {"name": "f", "columns": 3, "mask_img": "m.nii.gz"}):
        file = recipe(tmp_path, CorpusConfig, datasets=[{**DATASET, "features": features}])
        with pytest.raises(UserError, match="exactly one of labels_img, labels_gii, mask_img"):
            parse(CorpusConfig, ["--config", file])


def test_a_missing_file_and_a_missing_required_key_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothere\.yaml"):
        parse(PretrainConfig, ["--config", str(tmp_path / "nothere.yaml")])
    with pytest.raises(UserError, match=r"data\.corpus"):
        parse(PretrainConfig, ["--out", "x"])


@pytest.mark.parametrize("cls", MINIMAL)
def test_a_saved_configuration_comes_back_the_same(tmp_path: Path, cls):
    first = parse(cls, ["--config", recipe(tmp_path, cls)])
    save_config(first, tmp_path / "saved.yaml")
    again = parse(cls, ["--config", str(tmp_path / "saved.yaml")])
    assert again == first and config_hash(again) == config_hash(first)


def test_the_hash_is_of_the_settings_and_stays(tmp_path: Path):
    given = SimulateConfig(out="/a")
    assert config_hash(given) == config_hash(SimulateConfig(out="/a"))
    assert config_hash(given) != config_hash(dataclasses.replace(given, seed=1))
    shuffled = tmp_path / "shuffled.yaml"
    shuffled.write_text(yaml.safe_dump(dict(reversed(to_dict(given).items())), sort_keys=False))
    assert config_hash(parse(SimulateConfig, ["--config", str(shuffled)])) == config_hash(given)


def test_every_setting_is_documented():
    trees = [ast.parse(path.read_text()) for path in Path(config.__file__).parent.glob("*.py")]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    classes = [cls for cls in classes if cls.name.endswith("Config")]
    bare, names = [], {cls.name for cls in classes}
    assert {cls.__name__ for cls in MINIMAL} < names
    for cls in classes:
        for field, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and not documented:
                bare.append(f"{cls.name}.{ast.unparse(field.target)}")
    assert not bare


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_parses(path: Path):
    prefix = next((p for p in PREFIXES if path.name.startswith(p)), None)
    parsed = parse(PREFIXES[prefix] if prefix else StudyConfig, ["--config", str(path)])
    assert len(config_hash(parsed)) == 12
