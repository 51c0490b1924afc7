"""Container files agree with the package and each other; their install steps run in a fresh environment."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools/containers"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = "python:3.12-slim-bookworm"


def docker() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, in order: keyword and rest."""
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word.isupper()]


def sections() -> dict[str, list[str]]:
    """Return the sections of the Apptainer definition, line by line; "" = its head."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (FOLDER / "fmriscale.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def instructions(keyword: str) -> list[str]:
    return [rest for word, rest in docker() if word == keyword]


def test_both_images_take_the_same_steps():
    post = sections()["post"]
    runs = [step for step in instructions("RUN") if "useradd" not in step]
    assert [line for line in post if not line.startswith(("set -e", "export ", "cd "))] == runs
    assert post[0] == "set -e", "a step that fails ends the build"
    assert sections()[""] == ["Bootstrap: docker", f"From: {BASE}"] and instructions("FROM") == [BASE]
    copied = {name for rest in instructions("COPY") for name in rest.split()[:-1]}
    assert {line.split()[0] for line in sections()["files"]} == copied
    arguments = {rest.partition("=")[0] for rest in instructions("ARG")}
    assert {line.partition("=")[0] for line in sections()["arguments"]} == arguments
    assert all((ROOT / name).exists() for name in copied)


def test_versions_and_extras_are_those_of_the_package():
    python = re.search(r"python:(\d\.\d+)", BASE)
    assert python and f"Programming Language :: Python :: {python[1]}" in PROJECT["classifiers"]
    environment = yaml.safe_load((FOLDER / "environment.yml").read_text())
    assert f"python={python[1]}" in environment["dependencies"]
    by_pip = environment["dependencies"][-1]["pip"]
    assert (FOLDER / by_pip[0].split()[1]).resolve() == ROOT / "constraints.txt"
    assert (FOLDER / by_pip[1].split()[1].partition("[")[0]).resolve() == ROOT
    (install,) = (step for step in instructions("RUN") if " install " in step and "pip" in step)
    assert "-c constraints.txt" in install
    for text in (install, by_pip[1]):
        extras = re.search(r"\[([\w,]+)\]", text)
        assert extras and set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {"torch", "deepspeed", "numba"} <= pinned.keys()


def test_the_images_run_as_a_user_and_fetch_by_apt_and_pip_alone():
    assert instructions("USER") == ["fmriscale"]
    order = [word for word, _ in docker()]
    assert order.index("USER") < order.index("ENTRYPOINT") and "ADD" not in order
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["fmriscale"]
    assert sections()["runscript"] == ['exec fmriscale "$@"']
    assert "fmriscale" in PROJECT["scripts"]
    for name in ("Dockerfile", "fmriscale.def", "environment.yml"):
        text = (FOLDER / name).read_text()
        assert not re.search(r"https?://|\b(curl|wget|git clone|sudo)\b|--trusted-host|chmod 777", text), name


def run_step(step: str, folder: Path, python: Path, **env: str) -> subprocess.CompletedProcess:
    path = f"{python.parent}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-c", step],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment whose other packages are those of this one, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("image") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/python"


def test_the_steps_run_in_a_fresh_folder(environment, tmp_path):
    pytest.importorskip("hatchling")
    for rest in instructions("COPY"):
        for name in rest.split()[:-1]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    check, install, device = (s for s in instructions("RUN") if "apt-get" not in s and "useradd" not in s)
    assert run_step(check, tmp_path, environment, DEVICE="cuda").returncode == 0
    refused = run_step(check, tmp_path, environment, DEVICE="cpu")
    assert refused.returncode == 1 and "give PIP_EXTRA_INDEX_URL" in refused.stdout
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_IGNORE_INSTALLED": "1",
    }
    done = run_step(install, tmp_path, environment, **offline)
    assert done.returncode == 0, done.stderr
    done = run_step("fmriscale --version", tmp_path, environment)
    assert done.stdout.startswith("fmriscale ") and done.returncode == 0, done.stderr
    import torch

    here = "cpu" if torch.version.cuda is None else "cuda"
    step = device.replace("$DEVICE", here)
    assert run_step(step, tmp_path, environment).returncode == 0
    other = device.replace("$DEVICE", {"cpu": "cuda", "cuda": "cpu"}[here])
    assert run_step(other, tmp_path, environment).returncode != 0


APPTAINER = """#!/bin/sh
# What the page relies on: options, an image, a command that gets this environment and this folder.
[ "$1" = exec ] || exit 9
while [ "$1" != "$FMRISCALE_IMAGE" ]; do shift || exit 9; done
shift
PATH=/usr/bin:/bin
case $1 in python) shift && exec {python} "$@" ;; *) echo "$@" ;; esac
"""


def test_the_wrappers_of_the_cluster_page_run_the_code_of_the_checkout(tmp_path):
    page = (ROOT / "docs/cluster.md").read_text()
    begin, end = page.index("    mkdir -p slurm/bin"), page.index("`slurm/env.sh` exports")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "fmriscale").mkdir()
    (tmp_path / "toy.py").write_text("WHERE = 'the checkout'")
    (tmp_path / "fmriscale/train.py").write_text("import sys, toy; print(toy.WHERE, sys.argv[1:])")
    (tmp_path / "apptainer").write_text(APPTAINER.format(python=sys.executable))
    (tmp_path / "apptainer").chmod(0o755)
    step = textwrap.dedent(page[begin:end]) + (
        ". slurm/env.sh\npython fmriscale/train.py --config 'a b'\nfmriscale-shard --jobs 2\nfmriscale plan\n"
    )
    done = run_step(step, tmp_path, tmp_path / "apptainer", FMRISCALE_DATA="/data")
    told = ["the checkout ['--config', 'a b']", "fmriscale-shard --jobs 2", "fmriscale plan"]
    assert done.stdout.splitlines() == told, done.stderr
