"""Reading corpora, embedding and sharding need nothing that Linux alone has, and no DeepSpeed or MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toystudy import write_arrays, write_encoder, write_toy

ELSEWHERE = """
import os, sys

REFUSED = os.environ["REFUSED"].split()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in REFUSED:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
del os.sched_getaffinity
"""
"""A sitecustomize.py: every process of a test starts without some modules, as on another system."""

READ_AND_EMBED = """
import sys
import numpy as np
import fmriscale
from fmriscale.corpus.reader import Corpus

corpus = Corpus.open(sys.argv[1])
vectors = fmriscale.EncoderTransformer(sys.argv[2], t_r=2.0).fit_transform([corpus.bold(0), corpus.bold(1)])
assert fmriscale.Encoder.from_pretrained(sys.argv[2]) is not None
print(len(corpus.runs), vectors.shape, np.isfinite(vectors).all())
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run Python without some modules and without the number of cores a process may use."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ELSEWHERE)
    path = [str(tmp_path / "site"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))

    def run(*arguments: object, refused: str = "fcntl resource deepspeed mlflow"):
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        env = os.environ | {"REFUSED": refused}
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


def test_shard_read_and_embed_without_what_linux_and_training_bring(tmp_path, elsewhere):
    given = write_arrays(tmp_path / "in", n_people=3, n_volumes=60)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"out": "c", "datasets": [given]}))
    for jobs in (1, 2):
        options = ["--config", "recipe.yaml", "--out", f"c{jobs}", "--jobs", jobs]
        done = elsewhere("-c", "from fmriscale.cli import shard; shard()", *options)
        assert (done.returncode, done.stderr.count("Error")) == (0, 0), done.stderr
    for name in ("corpus.json", "runs.tsv", "toy/toy-000000.tar"):
        assert (tmp_path / "c1" / name).read_bytes() == (tmp_path / "c2" / name).read_bytes()
    write_encoder(tmp_path / "encoder", seed=0)
    done = elsewhere("-c", READ_AND_EMBED, "c2", "encoder")
    assert done.stdout == "3 (2, 16) True\n", done.stderr


def test_training_without_deepspeed_is_one_line_with_the_remedy(tmp_path, elsewhere):
    write_toy(tmp_path)
    recipe = {"out": "run", "data": {"corpus": "corpus"}, "model": {"preset": "tiny"}, "train": {"steps": 1}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = elsewhere("-m", "fmriscale.train", "--config", "recipe.yaml", refused="deepspeed")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.endswith("fmriscale: error: training needs deepspeed: pip install deepspeed\n")
