"""What fuzz tests share: how many examples, and what a reader may answer and take."""

import contextlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmriscale.common.errors import UserError, shown
from fmriscale.common.quarantine import Rejected

MORE = int(os.environ.get("FMRISCALE_FUZZ", "0"))
MEMORY = 3 << 30  # Bytes that a reader may ask for beyond what the process has
TOUCHED = 400 << 20  # Bytes that it may really take

_opened: list[str] | None = None


def _note(event: str, args: tuple) -> None:
    if _opened is not None and event in ("open", "subprocess.Popen", "os.system", "socket.connect"):
        _opened.append(f"{event} {args[0]}")


sys.addaudithook(_note)


def fuzzed(examples: int, **strategies: st.SearchStrategy) -> Callable:
    """Run a test on so many mutations, the same in every run."""

    def decorate(test: Callable) -> Callable:
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        options = {"max_examples": MORE or examples, "derandomize": not MORE, "database": None}
        return settings(deadline=None, suppress_health_check=checks, **options)(given(**strategies)(test))

    return decorate


@contextlib.contextmanager
def one_line(per_mistake: bool = False):
    """Accept a `UserError` or a rejection of one line, in bounded memory; refuse every other error."""
    global _opened
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    before, _opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    try:
        yield
    except UserError as error:
        lines = shown(error).splitlines()  # as it is printed
        assert lines and (per_mistake or len(lines) == 1), f"not one line: {error}"
        assert all(line.isprintable() for line in lines)
    except Rejected as why:
        assert why.reason and "\n" not in why.detail
    finally:
        names, _opened = _opened, None
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    odd = [name for name in names if not name.startswith("open") or "outside" in name or "hostname" in name]
    assert not odd
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert taken < TOUCHED, f"{taken >> 20} MiB"


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
