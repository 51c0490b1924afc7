"""A page is a test: its fenced blocks are run in order, and what it says of the output is compared.

| fence | what happens |
|---|---|
| `bash` | runs in the page's one shell, which begins in an empty folder and ends at the first failure |
| `python` | runs in that folder, as a program of its own |
| any, with `title="NAME"` | is written to the file NAME |
| `text` | is output of the last program: its lines occur there, in order; `...` stands for anything |
| `console` | cannot run here, and is only read |
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUNS = {"bash": ". {}", "python": "python {}"}
REST = ("text", "console")
_FENCE = re.compile(r'(\s*)```(\w*)(?: title="([^"]+)")?\s*')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    title: str | None
    body: str

    @property
    def runs(self) -> bool:
        return self.title is None and self.language in RUNS


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page; refuse fences that no rule says anything about."""
    found: list[Block] = []
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if "```" not in line:
            continue
        fence = _FENCE.fullmatch(line)
        assert fence and not fence[1], f"line {number}: this fence cannot be read: {line}"
        body = []
        for _, inner in lines:
            if inner.startswith("```"):
                break
            body.append(inner)
        block = Block(number, fence[2], fence[3], "\n".join(body) + "\n")
        known = block.title or block.language in (*RUNS, *REST)
        assert known, f"line {number}: a block of '{block.language}' needs a title, or is text or console"
        found.append(block)
    return found


def first_missing(expected: str, output: str) -> str | None:
    """Return the first line that the output does not have, where line breaks and spaces count alike."""
    output, at = " ".join(output.split()), 0
    for line in expected.splitlines():
        parts = re.split(r"\.{3}(?!\.)", " ".join(line.split()))  # 0.... is 0. and anything
        pattern = ".{0,600}?".join(map(re.escape, parts))
        if not (found := re.compile(pattern).search(output, at)):
            return line
        at = found.end()
    return None


def run_page(page: Path, folder: Path, env: Mapping[str, str], timeout: float = 1100) -> None:
    """Run a page in `folder/work`, empty if it is not there; fail with the line where it goes wrong."""
    given, work, steps = blocks(page.read_text()), folder / "work", folder / "steps"
    work.mkdir(exist_ok=True)
    steps.mkdir()
    script = ["set -euo pipefail"]
    for block in given:
        file = steps / f"{block.line}.{block.language}"
        file.write_text(block.body)
        if block.title:
            script.append(f"mkdir -p $(dirname '{block.title}'); cp '{file}' '{block.title}'")
        elif block.runs:
            script.append(f"echo {block.line} >'{steps}/at'")
            script.append(RUNS[block.language].format(f"'{file}'") + f" >'{steps}/{block.line}.out' 2>&1")
    code, told = _run(script, work, env, timeout)
    output, failed = "", code and int((steps / "at").read_text())
    for block in given:
        if block.runs:
            output = (steps / f"{block.line}.out").read_text()
            where = f"{page}:{block.line}"
            assert failed != block.line, f"{where}: exit {code}\n{output[-4000:]}{told}"
        elif block.language == "text" and not block.title:
            missing = first_missing(block.body, output)
            assert missing is None, f"{page}:{block.line}: not in the output: {missing}\n{output[-4000:]}"


def _run(script: list[str], work: Path, env: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Run a script in a shell; return its exit code and what it says itself."""
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=work,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told = shell.communicate(timeout=timeout)[0]
        return shell.returncode, told
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        return 124, f"not done after {timeout:g} s"
