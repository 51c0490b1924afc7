"""The `fmriscale` command as a shell sees it: help, exit codes, one-line errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from fmriscale import __version__, cli
from fmriscale.common.errors import EXIT_DAMAGE, EXIT_USAGE, DamageError, UserError, exit_code_of

SCRIPTS = Path(sys.executable).parent


def fmriscale(*args: str, script: str = "fmriscale") -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPTS / script, *args], capture_output=True, text=True, timeout=120)


def test_help_lists_every_verb():
    done = fmriscale("--help")
    assert done.returncode == 0 and not done.stderr
    assert all(f"  {verb}" in done.stdout for verb in cli.VERBS)


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["--version"]) == 0 and capsys.readouterr().out == f"fmriscale {__version__}\n"


def test_report_without_a_folder_says_what_it_needs(capsys: pytest.CaptureFixture[str]):
    for args in ([], ["a", "b"]):
        assert cli.run(["report", *args]) == EXIT_USAGE
        error = capsys.readouterr().err
        assert "usage: fmriscale report" in error and error.count("\n") == 1
        assert ("FOLDER" if not args else "unrecognized arguments: b") in error


def test_an_unknown_verb_is_a_usage_error_that_names_the_verbs():
    done = fmriscale("fintune")
    assert done.returncode == EXIT_USAGE
    assert "fintune" in done.stderr and "finetune" in done.stderr


def test_every_verb_belongs_to_one_step():
    assert [verb for verbs in cli.STEPS.values() for verb in verbs] == list(cli.VERBS)


def test_pretrain_is_a_verb_whose_help_names_the_launchers(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ending:
        cli.run(["pretrain", "--help"])
    told = capsys.readouterr().out
    assert not ending.value.code and "train.lr" in told
    assert all(word in told for word in ("deepspeed fmriscale/train.py", "torchrun", "sbatch"))


def test_pretrain_keeps_the_exit_code_and_the_one_line_of_a_refusal(tmp_path: Path):
    done = fmriscale("pretrain", "--data.corpus", str(tmp_path), "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert (
        done.stderr.startswith(f"fmriscale: error: {tmp_path}: not a corpus") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_of_its_own(verb: str, capsys: pytest.CaptureFixture[str]):
    try:
        code = cli.run([verb, "--help"])
    except SystemExit as ending:
        code = ending.code
    names = ("usage: fmriscale " + verb, "usage: fmriscale-" + verb)
    assert not code and capsys.readouterr().out.startswith(names)


def test_fmriscale_shard_is_the_verb_shard():
    done = fmriscale("--config", "nothere.yaml", script="fmriscale-shard")
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("fmriscale: error: ") and "nothere.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("error", "code"), [(UserError, EXIT_USAGE), (DamageError, EXIT_DAMAGE)])
def test_mistakes_become_one_line_and_an_exit_code(error, code: int, capsys: pytest.CaptureFixture[str]):
    def fails() -> None:
        raise error("recipe.yaml: no such atlas; give labels_img")

    assert exit_code_of(fails) == code
    assert capsys.readouterr().err == "fmriscale: error: recipe.yaml: no such atlas; give labels_img\n"


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0)


def test_the_exit_code_survives_a_library_that_aborts_while_python_ends():
    program = (
        "import atexit, os, sys\n"
        "from fmriscale.common.errors import end_process\n"
        "class Compiled:\n"
        "    def __init__(self): self.abort = os.abort\n"
        "    def __del__(self): self.abort()\n"
        "held = Compiled()\n"
        "atexit.register(print, 'said goodbye')\n"
        "print('saved', end=' ')\n"
        "end_process(85) if sys.argv[1] == 'ours' else sys.exit(85)\n"
    )
    ended = [
        subprocess.run([sys.executable, "-c", program, way], capture_output=True, text=True, check=False)
        for way in ("ours", "python")
    ]
    assert (ended[0].returncode, ended[0].stdout) == (85, "saved said goodbye\n")
    assert ended[1].returncode != 85, "Python's own way out would have kept the code as well"
