import subprocess
import sys
from pathlib import Path


def test_the_computation_is_the_one_that_was_kept(repository: Path):
    done = subprocess.run(
        [sys.executable, "tools/golden_losses", "--check"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
