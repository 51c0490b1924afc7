"""Help that can be trusted: its examples run, and a word that is nearly right is recognised."""

import importlib
import shlex
from pathlib import Path

import pytest

from fmriscale import cli
from fmriscale.common.errors import EXIT_USAGE
from fmriscale.common.suggest import did_you_mean, did_you_mean_path, nearest
from fmriscale.config.examples import EXAMPLES
from fmriscale.config.recipe import parse

REPOSITORY = Path(__file__).parents[2]
WRITTEN = ("demo", "try", "runs", "probes", "published", "vectors.npz", "people.parquet", "study.html")
WRITTEN = (*WRITTEN, "corpus.html")
"""Files and folders of the examples that a demo, or the examples themselves, write."""
LINES = [line for lines in EXAMPLES.values() for line in lines]
LINES += [line.strip() for line in cli.FIRST_USE.splitlines()[1:]]


@pytest.mark.parametrize("line", LINES)
def test_every_example_is_understood_and_its_files_are_there(line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    command, verb, *words = shlex.split(line)
    assert command == "fmriscale" and verb in cli.VERBS
    parser = importlib.import_module(cli.VERBS[verb][0]).parser_of_verb()
    rest = parser.parse_known_args(words)[1]
    if parser.recipe:
        parse(parser.recipe, rest, prog=parser.prog)
    else:
        assert not rest
    for word in words:
        is_path = ("/" in word or "." in word) and not word.startswith(("--", "hf://")) and word[0].isalpha()
        if is_path and word.split("/")[0] not in WRITTEN:
            assert Path(word).exists(), word


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_help_of_every_verb_ends_with_its_examples(verb: str, capsys: pytest.CaptureFixture[str]):
    try:
        cli.run([verb, "--help"])
    except SystemExit as ending:
        assert not ending.code
    told = capsys.readouterr().out
    assert told.rstrip().endswith("\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[verb])]))
    assert told.count("examples:") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shrad --help", "no verb 'shrad'; did you mean 'shard'?"),
        ("Inspect x", "no verb 'Inspect'; did you mean 'inspect'?"),
        (
            "shard --config configs/corpus_abid.yaml",
            "No such file or directory; did you mean configs/corpus_abide",
        ),
        ("shard --config corpus_abide.yaml", "did you mean configs/corpus_abide.yaml?"),
        ("shard --config confgs/corpus_abid.yaml", "did you mean configs/corpus_abide.yaml?"),
        ("shard --config nothing/like/it.yaml", "give the path of a recipe"),
        (
            "shard --config configs/corpus_abide.yaml --task-idd 1",
            "--task-idd is no option; did you mean --task-id?",
        ),
        ("finetune --config configs/timbre.yaml --num-task 4", "did you mean --num-tasks?"),
        ("pretrain --config configs/pretrain_demo.yaml --train.lrr 1", "did you mean 'train.lr'?"),
        ("pretrain --config configs/pretrain_demo.yaml --model.preset bass", "did you mean 'base'?"),
        (
            "pretrain --config configs/pretrain_demo.yaml --data.pairs.negatives '{same_rn: 1}'",
            "mean 'same_run'?",
        ),
        ("probe --config configs/probe_abide_diagnosis.yaml --splits [tset]", "did you mean 'test'?"),
        ("inspect config", "config: not a corpus (no corpus.json); did you mean configs?"),
        ("embed config demo --out x.npz", "config: no encoder in it (no config.json); did you mean configs?"),
        ("embed a b --out x.npz --row person --pool bin", "argument --pool: invalid choice: 'bin'"),
        ("embed a b --out x.npz --pool bin", "did you mean 'bins'?"),
        ("inspect x --reprt y.html", "unrecognized arguments: --reprt y.html; did you mean --report?"),
        ("report test", "did you mean tests?"),
        ("publish test", "did you mean tests?"),
        ("plan --config configs/pretrain_base.yaml --gpu H10", "did you mean 'H100'?"),
        ("plan --config configs/pretrain_base.yaml --pairs-per 3", "did you mean --pairs-per-s?"),
    ],
)
def test_a_word_that_is_nearly_right_is_recognised_on_one_line(
    line: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(REPOSITORY)
    assert cli.run(shlex.split(line)) == EXIT_USAGE
    told = capsys.readouterr().err
    assert words in told and told.startswith("fmriscale: error: ") and told.count("\n") == 1


def test_a_word_like_none_of_the_known_ones_gets_no_suggestion(tmp_path: Path):
    assert did_you_mean("zebra", ["abide", "haxby"]) == ""
    assert did_you_mean("ABID", ["abide", "haxby"]) == "; did you mean 'abide'?"
    assert nearest("hax", ["abide", "haxby", "hax2"], n=2) == ["hax2", "haxby"]
    assert did_you_mean_path(tmp_path / "nothing") == ""


def test_a_path_is_looked_for_part_by_part(tmp_path: Path):
    (tmp_path / "corpora" / "abide").mkdir(parents=True)
    (tmp_path / "corpora" / "haxby.yaml").touch()
    there = tmp_path / "corpora" / "abide"
    assert did_you_mean_path(tmp_path / "corpra" / "abid") == f"; did you mean {there}?"
    assert did_you_mean_path(there) == ""
    assert did_you_mean_path(tmp_path / "corpora" / "haxby.yaml" / "x") == ""
