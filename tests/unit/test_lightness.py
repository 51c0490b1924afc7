"""Help and refusals come at once: the libraries that take seconds to import wait until there is work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LATE = "deepspeed h5py huggingface_hub matplotlib mlflow nibabel nilearn numba pandas scipy sklearn torch "
LATE += "webdataset"
LISTEN = """
import contextlib, io, json, sys
from fmriscale import cli, train
from fmriscale.common.errors import exit_code_of
for line in json.loads(sys.argv[1]):
    told, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(out):
        try:
            code = exit_code_of(lambda: train.main(line[1:])) if line[0] == "train.py" else cli.run(line)
        except SystemExit as end:
            code = end.code
    late = [name for name in sys.argv[2].split() if name in sys.modules]
    print(json.dumps([code, told.getvalue() or out.getvalue(), late]))
"""

CORPUS = """\
out: {folder}/corpus
datasets:
  - name: a
    kind: fmriprep
    root: {root}
    features: {{name: p, labels_img: {folder}/atlas.nii}}
    denoise: {{strategy: [{strategy}]}}
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Run all commands in one process, which shows each import at the first command that makes it."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, root, strategy in (("root", "/nowhere", ""), ("strategy", folder, "nonsense")):
        text = CORPUS.format(folder=folder, root=root, strategy=strategy)
        (folder / f"{name}.yaml").write_text(text)
    (folder / "key.yaml").write_text(CORPUS.format(folder=folder, root=folder, strategy="") + "nonsense: 1\n")
    lines = {line: line.replace("DIR", str(folder)).split() for line in COMMANDS}
    command = [sys.executable, "-c", LISTEN, json.dumps(list(lines.values())), LATE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return dict(zip(lines, map(json.loads, done.stdout.splitlines()), strict=True))


COMMANDS = {
    "shard --help": "--plan",
    "plan --help": "--gpus",
    "simulate --help": "n_subjects",
    "finetune --help": "--task-id",
    "probe --help": "--task-id",
    "embed --help": "--rows",
    "inspect --help": "--report",
    "verify --help": "--repair",
    "report --help": "--out",
    "publish --help": "--licence",
    "train.py --help": "train.lr",
    "pretrain --help": "sbatch",
    "completion --help": "fpath",
    "shard --config DIR/key.yaml": "nonsense",
    "shard --plan --config DIR/root.yaml": "/nowhere is no folder",
    "shard --config DIR/root.yaml": "/nowhere is no folder",
    "shard --config DIR/strategy.yaml": "'nonsense' is not offered",
    "shard --task-id 0 --num-tasks 2 --config DIR/strategy.yaml": "'nonsense' is not offered",
    "simulate --out DIR/x --nonsense 1": "nonsense",
    "simulate --out DIR/x --n_subjects 0": "n_subjects is 0",
    "plan --config configs/pretrain_base.yaml --train.nonsense 1": "nonsense",
    "train.py --config configs/pretrain_base.yaml --train.nonsense 1": "nonsense",
    "train.py --config configs/pretrain_base.yaml --data.corpus DIR": "not a corpus",
    "pretrain --config configs/pretrain_base.yaml --data.corpus DIR": "not a corpus",
    "finetune --config configs/haxby.yaml --nonsense 1": "nonsense",
    "finetune --config configs/haxby.yaml --corpus DIR": "not a corpus",
    "probe --config configs/probe_abide_diagnosis.yaml --nonsense 1": "nonsense",
    "probe --config configs/probe_abide_diagnosis.yaml --corpus DIR": "not a corpus",
    "embed DIR DIR --out DIR/x.npz": "no encoder in it",
    "inspect DIR": "not a corpus",
    "verify DIR": "not a corpus",
    "report DIR": "neither summary.json",
    "publish DIR": "no encoder/ with model.safetensors",
}
"""Command, and what is in its answer."""


@pytest.mark.parametrize("line", COMMANDS)
def test_help_and_refusals_import_nothing_heavy(answers: dict[str, list], line: str) -> None:
    code, told, late = answers[line]
    assert (code or 0) == (0 if "--help" in line else 2), told
    assert COMMANDS[line] in told
    assert not late
