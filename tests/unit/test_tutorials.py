"""The tutorials do what they say: every page runs from its own text. And what runs them notices a lie."""

import os
import sys
from pathlib import Path

import pytest
from tutorial import blocks, first_missing, run_page

PAGES = ["tutorials/bids_to_encoder.md", "tutorials/encoder_to_decoding.md", "how/order_of_pairs.md"]
"""Pages that run on one machine; tests/slurm has the one of Slurm."""


@pytest.fixture
def env(repository: Path) -> dict[str, str]:
    """The product's commands come first in PATH; the machine's data, caches and Slurm are not there."""
    ours = ("FMRISCALE_", "MLFLOW_", "SLURM_")
    given = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"
    return {**given, "PATH": path, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_its_own_text(page: str, repository: Path, tmp_path: Path, env: dict[str, str]):
    run_page(repository / "docs" / page, tmp_path, env)


def page_of(folder: Path, *parts: tuple[str, str]) -> Path:
    page = folder / "page.md"
    page.write_text("A page.\n" + "".join(f"\n```{fence}\n{body}\n```\n" for fence, body in parts))
    return page


def test_a_page_has_one_shell_files_and_programs(tmp_path: Path, env: dict[str, str]):
    page = page_of(
        tmp_path,
        ("bash", "mkdir inner; cd inner; name=world"),
        ('yaml title="deep/a.yaml"', "key: value"),
        ("console", "no-such-command"),
        ("bash", 'cat deep/a.yaml; echo "hello, $name"; echo whole >&2'),
        ("text", "key: value\n...\n... $name".replace("$name", "world")),
        ("python", "import pathlib; print(pathlib.Path('deep/a.yaml').read_text(), __name__)"),
        ("text", "key: value\n__main__"),
    )
    run_page(page, tmp_path, env)


def test_a_page_that_lies_fails_by_its_line(tmp_path: Path, env: dict[str, str]):
    lie = page_of(tmp_path, ("bash", "echo one; echo two"), ("text", "two\none"))
    with pytest.raises(AssertionError, match=r"page\.md:7: not in the output: one"):
        run_page(lie, tmp_path, env)


def test_a_command_that_fails_ends_the_page_by_its_line(tmp_path: Path, env: dict[str, str]):
    page = page_of(tmp_path, ("bash", "echo fine"), ("bash", "echo told; false | true"), ("bash", "touch x"))
    with pytest.raises(AssertionError, match=r"page\.md:7: exit 1\ntold"):
        run_page(page, tmp_path, env)
    assert not (tmp_path / "work/x").exists()


@pytest.mark.parametrize("fence", ["yaml", "", "bash title=a"])
def test_a_fence_that_no_rule_covers_is_refused(fence: str):
    with pytest.raises(AssertionError, match="line 1"):
        blocks(f"```{fence}\na\n```\n")


@pytest.mark.parametrize(
    ("expected", "missing"),
    [
        ("a b\nc", None),
        ("a ... c", None),
        ("a.b", "a.b"),
        ("c\nb", "b"),
        ("loss 0....", None),
        ("loss 1....", "loss 1...."),
    ],
)
def test_lines_are_looked_for_in_order(expected: str, missing: str | None):
    assert first_missing(expected, "a\n  b  \nc loss 0.693 acc") == missing
