"""Runs programs in forks of one process that has imported what they import: the longest part at toy size.

`warm_programs.py MODULE ...` imports modules, reads lines of JSON, [program, [argument, ...], log], and
answers each with the program's exit code. What the program prints goes to the log.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WarmPrograms:
    """The process that forks, seen from a test."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, program: Path, arguments: list[str], log: Path) -> int:
        """Run a program and return its exit code."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps([str(program), arguments, str(log)]), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def warm_programs(modules: list[str], env: dict[str, str]) -> Iterator[WarmPrograms]:
    """Start the process, and end it."""
    command = [sys.executable, __file__, *modules]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        yield WarmPrograms(process)


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        program, arguments, log = json.loads(line)
        if pid := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv, sys.path[0] = [program, *arguments], str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
        return


if __name__ == "__main__":
    main()
