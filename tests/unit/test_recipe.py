"""Recipes as people write them: YAML 1.2, all mistakes at once, paths, the schema, and the way back."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import yaml

from fmriscale import cli
from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import CorpusConfig, DatasetConfig, PretrainConfig, StudyConfig
from fmriscale.config.recipe import parse, save_config

TOY = """\
out: corpus
datasets:
- name: toy
  kind: bids
  root: data
  features: {name: f, labels_img: atlas.nii.gz}
"""
PRETRAIN = "out: run\ndata: {corpus: c}\n"


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    """A recipe file."""
    (folder / name).write_text(text)
    return str(folder / name)


def refused(cls: type, folder: Path, text: str, *options: str) -> list[str]:
    """The lines of a refusal."""
    with pytest.raises(UserError) as refusal:
        parse(cls, ["--config", written(folder, text), *options])
    return str(refusal.value).replace(f"{folder}/", "").splitlines()


def toy(folder: Path, text: str, *options: str) -> DatasetConfig:
    """The only data set of a recipe that goes on with `text`."""
    return parse(CorpusConfig, ["--config", written(folder, TOY + text), *options]).datasets[0]


SPELLINGS = [
    "010",
    "008",
    "0o7",
    "0x10",
    "1e3",
    "1.50",
    "1_000",
    "off",
    "on",
    "yes",
    "NO",
    "n",
    "true",
    "12:30",
]
SPELLINGS += ["2024-01-02", ".inf", "+5", "-07", "1.", "<<"]


@pytest.mark.parametrize("text", SPELLINGS)
def test_text_keeps_its_spelling(tmp_path: Path, text: str):
    more = f"  entities: {{ses: {text}}}\n  licence: {text}\n  participants_columns: [{text}]\n"
    for given in (toy(tmp_path, more), toy(tmp_path, "", f"--datasets.entities.ses={text}")):
        assert given.entities == {"ses": text}
    given = toy(tmp_path, more)
    assert (given.licence, given.participants_columns) == (text, [text])


def test_whole_numbers_of_entities_stay_numbers_and_quotes_make_text(tmp_path: Path):
    given = toy(tmp_path, "  entities: {res: 2, run: '2', acq: \"\", ce: !!str 3}\n")
    assert given.entities == {"res": 2, "run": "2", "acq": "", "ce": "3"}


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_no_text(tmp_path: Path, text: str):
    (line,) = refused(CorpusConfig, tmp_path, f"{TOY}  entities: {{ses: {text}}}\n")
    assert line.startswith("mine.yaml: line 7: datasets[0] 'toy': entities.ses is null; ")
    assert "in quotes it is text" in line
    assert toy(tmp_path, f"  people: {text}\n").people is None


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path):
    text = "train: {lr: 1e-4, steps: 010, weight_decay: 1, betas: [.9, 98E-2], deepspeed: {a: 1e3}}\n"
    train = parse(PretrainConfig, ["--config", written(tmp_path, PRETRAIN + text)]).train
    assert (train.lr, train.steps, train.weight_decay, train.betas) == (1e-4, 10, 1.0, (0.9, 0.98))
    assert train.deepspeed == {"a": 1000.0}
    assert [type(v) for v in (train.lr, train.steps, train.weight_decay)] == [float, int, float]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("{steps: 1_000}", "train.steps is '1_000'; it must be a whole number"),
        ("{steps: 1.0}", "train.steps is '1.0'; it must be a whole number"),
        ("{lr: '1e-4'}", "train.lr is '1e-4'; it must be a number: write it without quotes"),
        ("{compile: yes}", "train.compile is 'yes'; it must be true or false"),
        ("{lr: null}", "train.lr is null; it must be a number"),
        ("{betas: [0.9]}", "train.betas is '[0.9]'; it must be a list of 2 numbers"),
        ("[1]", "train is '[1]'; it must be a mapping of keys to values"),
        (
            "{seed: !!python/name:os.system x}",
            "the tag tag:yaml.org,2002:python/name:os.system means nothing",
        ),
    ],
)
def test_what_a_value_must_be_is_said_in_a_readers_words(tmp_path: Path, train: str, said: str):
    assert said in refused(PretrainConfig, tmp_path, f"{PRETRAIN}train: {train}\n")[0]


def test_all_mistakes_are_told_at_once_each_on_its_line(tmp_path: Path):
    text = """\
out: x
jobs: -3
spilt: {val: 0.1}
datasets:
- &a
  name: one
  kind: nifti
  root: data
  wieght: 2
  features: {name: f, columns: x}
  quality: {min_volumes: many, max_missing: 20, max_censored: 30}
- <<: *a
  name: two
  kind: arrays
  jobs: 2
- three
- name: four
  features: {columns: 3}
  jobs: 2
  jobs: 3
"""
    lines = refused(CorpusConfig, tmp_path, text, "--shard_mb", "big", "--split.val=3")
    whole, keys = "it must be a whole number", "(--help lists every key)"
    kinds = "fmriprep, bids, xcpd, hcp or arrays"
    both, moved = "datasets[0] 'one' and 1 more", "is a key of the recipe itself; move it out of datasets"
    told = [
        "--shard_mb: shard_mb is 'big'; it must be a whole number",
        "--split.val: split.val is a share from 0 to 1, not 3",
        "mine.yaml: line 2: jobs must be 0 or more, not -3",
        f"mine.yaml: line 3: 'spilt' is no key of a recipe; did you mean 'split'? {keys}",
        f"mine.yaml: line 7: datasets[0] 'one': kind is 'nifti'; it must be {kinds}",
        f"mine.yaml: line 9: {both}: 'wieght' is no key of a recipe; did you mean 'weight'? {keys}",
        f"mine.yaml: line 10: {both}: features.columns is 'x'; {whole} or null",
        f"mine.yaml: line 11: {both}: quality.min_volumes is 'many'; {whole}",
        f"mine.yaml: line 11: {both}: quality.max_missing is a share from 0 to 1, not 20",
        f"mine.yaml: line 11: {both}: quality.max_censored is a share from 0 to 1, not 30",
        f"mine.yaml: line 15: datasets[1] 'two': 'jobs' {moved}",
        "mine.yaml: line 16: datasets[2]: 'three' is no mapping of keys to values",
        f"mine.yaml: line 17: datasets[3] 'four': kind is missing; it must be {kinds}",
        "mine.yaml: line 17: datasets[3] 'four': root is missing; it must be a path",
        "mine.yaml: line 18: datasets[3] 'four': features.name is missing; it must be text",
        f"mine.yaml: line 20: datasets[3] 'four': 'jobs' {moved}",
        "mine.yaml: line 20: 'jobs' stands here a second time; keep one of them",
    ]
    assert sorted(lines) == sorted(told)
    numbers = [int(line.partition(": line ")[2].partition(":")[0] or 0) for line in lines]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out: &a [*a]\n", "line 1: an alias stands inside the anchor"),
        ("out: &a {b: *a}\n", "line 1: an alias stands inside the anchor"),
        ("<<: 3\nout: x\n", "line 1: << takes a mapping"),
        ("? [a]\n: 3\n", "line 1: a key must be text"),
        (
            "out: !!python/object/apply:os.system [ls]\n",
            "the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML"),
    ],
)
def test_yaml_that_is_no_recipe_is_refused_by_line(tmp_path: Path, text: str, said: str):
    assert any(said in line for line in refused(CorpusConfig, tmp_path, text))


def test_options_set_append_and_keep_the_rest(tmp_path: Path):
    file = written(tmp_path, f"{PRETRAIN}train: {{steps: 5}}\n")
    given = ["--config", file, "--data.pairs.negatives.same_run", "0.2", "--data.holdout_runs+", "a"]
    given += ["--data.holdout_runs+=[b, c]", "--train", "{lr: 1}", "--data.cache=null", "--out", "a: [b"]
    config = parse(PretrainConfig, given)
    assert config.data.pairs.negatives == {"same_run": 0.2, "same_subject": 0.5}
    assert config.data.holdout_runs == ["a", "b", "c"] and config.data.cache is None
    assert (config.train.steps, config.train.lr, config.out) == (5, 1.0, "a: [b")
    for options, said in (
        (["--train.lr"], "--train.lr has no value"),
        (["--out+", "x"], "--out+: out is no list"),
        (["--out.x", "3"], "--out.x is no key of a recipe"),
        (["--train.deepspeed", "{a"], "--train.deepspeed {a: not YAML"),
    ):
        with pytest.raises(UserError) as refusal:
            parse(PretrainConfig, ["--config", file, *options])
        assert said in str(refusal.value)


def test_a_relative_path_is_relative_to_the_recipe_in_an_option_to_the_working_directory(
    tmp_path, monkeypatch
):
    (tmp_path / "a/{x}").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    text = TOY + "  events: ev/{subject}.tsv\n  participants: people.tsv\n"
    written(tmp_path / "a/{x}", text)
    config = parse(CorpusConfig, ["--config", "a/{x}/mine.yaml", "--out", "b/corpus"])
    (dataset,) = config.datasets
    assert (config.out, dataset.root, dataset.participants) == ("b/corpus", "a/{x}/data", "people.tsv")
    assert dataset.features.labels_img == "a/{x}/atlas.nii.gz"
    assert dataset.events == "a/{{x}}/ev/{subject}.tsv"
    for place in ("b/run/saved.yaml", str(tmp_path / "saved.yaml")):
        save_config(config, Path(place))
        assert parse(CorpusConfig, ["--config", place]).datasets[0].root in (
            dataset.root,
            str(tmp_path / dataset.root),
        )
    monkeypatch.chdir(tmp_path / "b")
    again = parse(CorpusConfig, ["--config", "run/saved.yaml"])
    assert os.path.abspath(again.datasets[0].root) == str(tmp_path / "a/{x}/data")  # noqa: PTH100


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("root", "~/data"), ("root", "$DATA/x"), ("root", "/data"), ("root", "s3://bucket/x"),
        ("events", "'{dir}/ev.tsv'"), ("events", "'{root}/../ev'"), ("events", "$DATA/{subject}.tsv"),
    ],
)  # fmt: skip
def test_paths_that_are_not_relative_stay(tmp_path: Path, key: str, text: str):
    assert getattr(toy(tmp_path, "", f"--datasets.{key}", text.strip("'")), key) == text.strip("'")
    recipe = (
        TOY.replace("  root: data\n", "") + f"  {key}: {text}\n" + ("  root: d\n" if key != "root" else "")
    )
    assert getattr(
        parse(CorpusConfig, ["--config", written(tmp_path, recipe)]).datasets[0], key
    ) == text.strip("'")


def test_every_verb_has_one_rule_of_paths(tmp_path: Path):
    study = "out: s\ncorpus: ../c\npretrained: r_{fold}/encoder\ncontrols: {shuffled_order: q}\n"
    config = parse(StudyConfig, ["--config", written(tmp_path, study)])
    assert (config.out, config.corpus) == (str(tmp_path / "s"), str(tmp_path.parent / "c"))
    assert config.pretrained == str(tmp_path / "r_{fold}/encoder")
    assert config.controls == {"shuffled_order": str(tmp_path / "q")}
    train = f"{PRETRAIN}train: {{nvme_path: disk}}\n".replace(
        "corpus: c", "corpus: https://x.org/c, cache: k"
    )
    config = parse(PretrainConfig, ["--config", written(tmp_path, train)])
    assert (config.data.corpus, config.data.cache) == ("https://x.org/c", str(tmp_path / "k"))
    assert config.train.nvme_path == str(tmp_path / "disk")
    bare = TOY.replace("atlas.nii.gz", "schaefer400")
    assert (
        parse(CorpusConfig, ["--config", written(tmp_path, bare)]).datasets[0].features.labels_img
        == "schaefer400"
    )


def test_awkward_texts_come_back_as_they_were(tmp_path: Path):
    first = parse(CorpusConfig, ["--config", written(tmp_path, TOY)])
    for text in [*SPELLINGS, "null", "~", "a: b", "# x", "'", " ", "é"]:
        dataset = dataclasses.replace(
            first.datasets[0], entities={"ses": text}, licence=text, name_pattern=text
        )
        config = dataclasses.replace(first, datasets=[dataset])
        save_config(config, tmp_path / "saved.yaml")
        assert parse(CorpusConfig, ["--config", str(tmp_path / "saved.yaml")]) == config
        assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["datasets"][0]["licence"] == text


@pytest.mark.parametrize("verb", ["shard", "plan", "simulate", "finetune"])
def test_every_verb_with_a_recipe_prints_help_and_a_schema(verb: str, capsys: pytest.CaptureFixture[str]):
    for option in ("--help", "--print_schema"):
        with pytest.raises(SystemExit) as end:
            cli.run([verb, option])
        assert end.value.code == 0
        out = capsys.readouterr().out
        if option == "--help":
            assert "relative to the folder of that file" in " ".join(out.split()) and "required" in out
            continue
        schema = json.loads(out)
        parts = [schema, *schema.get("$defs", {}).values()]
        assert all(key["description"] for part in parts for key in part["properties"].values())
        assert all(part["additionalProperties"] is False for part in parts)


def test_help_on_the_keys_below_one(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(CorpusConfig, ["--datasets.help"])
    out = capsys.readouterr().out
    assert "entities" in out and "denoise.high_pass" in out and "shard_mb" not in out
    with pytest.raises(UserError, match="out has no keys of its own"):
        parse(CorpusConfig, ["--out.help"])
    with pytest.raises(UserError, match=r"--nothing\.help"):
        parse(CorpusConfig, ["--nothing.help"])


def test_what_the_verb_finds_wrong_has_its_line_too(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        "out: c\ndatasets:\n- name: A\n  kind: bids\n  root: nowhere\n  entities: {tsk: rest}\n"
        "  features: {name: f, columns: 3}\n  denoise:\n    strategy: [moton]\n"
    )
    assert cli.run(["shard", "--config", str(tmp_path / "recipe.yaml")]) == 2
    told = capsys.readouterr().err.replace(str(tmp_path / "recipe.yaml"), "R")
    for line in (
        "R: line 3: datasets[0] 'A': name 'A' must be lower-case",
        "R: line 4: datasets[0] 'A': kind bids needs features with labels_img",
        "R: line 6: datasets[0] 'A': entities: 'tsk' is no BIDS entity; did you mean 'task'?",
        "R: line 9: datasets[0] 'A': denoise.strategy 'moton' is not offered",
    ):
        assert line in told


def test_a_variable_that_is_not_set_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("FMRISCALE_DATA", raising=False)
    for path in ("$FMRISCALE_DATA/x", "~/${FMRISCALE_DATA}"):
        with pytest.raises(
            UserError, match=r"FMRISCALE_DATA is not set; export FMRISCALE_DATA=/path/to/data"
        ):
            expand(path)
    monkeypatch.setenv("FMRISCALE_DATA", "/data")
    assert expand("$FMRISCALE_DATA/x") == Path("/data/x")
    (tmp_path / "a$b").mkdir()  # a name, and no variable
    assert expand(tmp_path / "a$b") == tmp_path / "a$b"
