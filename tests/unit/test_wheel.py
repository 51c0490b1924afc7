"""The wheel alone, installed outside of the checkout: it shards, pre-trains and embeds."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from toystudy import write_arrays

pytest.importorskip("hatchling")
EMBED = """
import sys
from pathlib import Path
import fmriscale
assert Path(fmriscale.__file__).is_relative_to(sys.prefix)
corpus = sys.argv[1]
from fmriscale.corpus.reader import Corpus
print(fmriscale.EncoderTransformer(sys.argv[2]).fit_transform([Corpus.open(corpus).bold(0)]).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", folder, Path(__file__).parents[2]], check=True)
    (path,) = folder.glob("fmriscale-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel; all other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", folder, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--ignore-installed", wheel], check=True)
    return folder


def test_the_wheel_says_that_it_is_typed_and_holds_nothing_but_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "fmriscale/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fmriscale"}


def test_the_wheel_shards_pretrains_and_embeds(environment, tmp_path):
    given = write_arrays(tmp_path / "in", n_people=4, n_volumes=80)
    shard = {"out": "corpus", "datasets": [given], "split": {"val": 0.0, "test": 0.0}, "jobs": 1}
    model = {"preset": "tiny", "d_model": 16, "n_layers": 1, "n_heads": 2}
    train = {"steps": 2, "global_batch": 4, "eval_pairs": 4, "warmup_steps": 0}
    data = {"corpus": "corpus", "pairs": {"negatives": {"same_run": 1.0}}}
    pretrain = {"out": "run", "data": data, "model": model, "train": train, "tracking": {"enabled": False}}
    for name, recipe in (("shard", shard), ("pretrain", pretrain)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        ["fmriscale-shard", "--config", "shard.yaml"],
        ["python", "-m", "fmriscale.train", "--config", "pretrain.yaml"],
        ["python", "-c", EMBED, "corpus", "run/encoder"],
    ):
        command = [environment / "bin" / command[0], *command[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "(1, 16)\n"
