"""`fmriscale completion SHELL`: the script is read by a real shell, which completes what the parsers know."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmriscale import cli
from fmriscale.completion import SCRIPTS, all_verbs
from fmriscale.config import PretrainConfig
from fmriscale.config.settings import fields_of, hint_at, recipe_class

ASK = r"""
source "$1"; shift
for line in "$@"; do
  IFS=' ' read -r -a COMP_WORDS <<<"${line%.}"
  [[ $line == *' .' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _fmriscale
  (IFS='|'; printf '%s\n' "${COMPREPLY[*]}")
done
"""
CASES = {
    "fmriscale .": {*cli.VERBS, "--help", "--version"},
    "fmriscale pre": {"pretrain"},
    "fmriscale shard --pl": {"--plan"},
    "fmriscale-shard --pl": {"--plan"},
    "fmriscale-shard --qu": {"--quiet"},
    "fmriscale pretrain --train.l": {"--train.log_every", "--train.lr"},
    "fmriscale pretrain --model.preset .": set(hint_at(PretrainConfig, ("model", "preset")).__args__),
    "fmriscale pretrain --model.preset = ti": {"tiny"},
    "fmriscale pretrain --model.preset =": set(hint_at(PretrainConfig, ("model", "preset")).__args__),
    "fmriscale pretrain --data.verify .": {"true", "false"},
    "fmriscale pretrain --train.lr .": set(),
    "fmriscale pretrain --config configs/h": {"configs/haxby.yaml"},
    "fmriscale probe --config configs/probe_a": {"configs/probe_abide_diagnosis.yaml"},
    "fmriscale probe --config x.yaml --pool m": {"mean"},
    "fmriscale embed runs/x --rows .": {"window", "run", "person"},
    "fmriscale embed runs/x --rows person --po": {"--pool"},
    "fmriscale inspect conf": {"configs"},
    "fmriscale report conf": {"configs"},
    "fmriscale report x --to w": {"wandb"},
    "fmriscale completion .": {"--help", "--quiet", *SCRIPTS},
    "fmriscale plan --gpu H": {"H100", "H100-NVL", "H100-PCIe", "H200", "H200-NVL"},
    "fmriscale nonsense --x": set(),
}
"""Line that is being typed ("." at its end: a space, and nothing yet), and what is offered."""


def script_of(shell: str, folder: Path) -> Path:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert cli.run(["completion", shell]) == 0
    path = folder / f"fmriscale.{shell}"
    path.write_text(told.getvalue())
    return path


def test_bash_completes_verbs_options_choices_and_files(tmp_path: Path):
    ask = ["bash", "--norc", "-c", ASK, "ask", str(script_of("bash", tmp_path)), *CASES]
    began = time.monotonic()
    done = subprocess.run(ask, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert not done.stderr
    offered = [set(filter(None, line.split("|"))) for line in done.stdout.splitlines()]
    assert dict(zip(CASES, offered, strict=True)) == CASES
    assert (time.monotonic() - began) / len(CASES) < 0.5, "an answer does not wait for Python"


@pytest.mark.parametrize("shell", SCRIPTS)
def test_every_option_of_every_verb_is_in_the_script_which_the_shell_can_read(shell: str, tmp_path: Path):
    script = script_of(shell, tmp_path)
    text = script.read_text()
    for verb in all_verbs():
        for option in verb.options:
            assert (f"-l {option.name[2:]}" if shell == "fish" else option.name) in text
    if (found := shutil.which(shell)) is None:
        assert text.count("'") % 2 == 0 and text.count("{") == text.count("}")
        return
    done = subprocess.run([found, "-n", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_options_are_those_of_parser_and_recipe_alike():
    verbs = {verb.name: verb for verb in all_verbs()}
    assert list(verbs) == list(cli.VERBS)
    options = {option.name: option for option in verbs["pretrain"].options}
    train = recipe_class(fields_of(PretrainConfig)["train"])
    assert train and {f"--train.{key}" for key in fields_of(train)} <= set(options)
    assert options["--data.corpus"].takes == "file" and options["--print_config"].takes == "flag"
    assert {"--task-id", "--finish", "--config", "--task.label", "--quiet"} <= {
        option.name for option in verbs["finetune"].options
    }


def test_writing_a_script_imports_nothing_slow():
    code = "import sys; from fmriscale import cli; cli.run(['completion', 'bash'])\n"
    code += (
        "print([name for name in ('torch', 'pandas', 'scipy', 'mlflow', 'nilearn') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.endswith("\n[]\n") and not done.stderr
