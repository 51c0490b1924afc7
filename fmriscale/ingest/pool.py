"""Do independent pieces of work in processes and hand the results back in order."""

import collections
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(function: Callable[..., Any], work: Iterable[tuple], jobs: int) -> Iterator[Any]:
    """Yield `function(*arguments)` for every item of work, in order.

    Numerical libraries run one thread a process, with one job as with many, so that results do not
    depend on the number of jobs. A few results a job wait at most, so memory stays bounded.

    Parameters
    ----------
    function : callable
        Importable by name.
    work : iterable of tuple
        Arguments.
    jobs : int
        Processes; 1 = work in this one.

    Yields
    ------
    Any
        Results; a `WorkerDied` for work that killed its process twice (out of memory, a crash in a library).
    """
    if jobs == 1:
        with threadpool_limits(1):
            for arguments in work:
                yield function(*arguments)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    pool, waiting = _new_pool(jobs), collections.deque()
    try:
        for arguments in work:
            try:
                future = pool.submit(function, *arguments)
            except BrokenProcessPool:  # an earlier piece killed its process, and the pool with it
                pool = _new_pool(jobs)
                future = pool.submit(function, *arguments)
            waiting.append((future, arguments))
            if len(waiting) >= 4 * jobs:
                yield _take(function, *waiting.popleft())
        while waiting:
            yield _take(function, *waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class WorkerDied(Exception):
    """Work whose process died, also when it was alone."""


def _new_pool(jobs: int) -> ProcessPoolExecutor:
    """Start workers that share one import of the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fmriscale.ingest.run"])
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=threadpool_limits, initargs=(1,))


def _take(function: Callable[..., Any], future: Future, arguments: tuple) -> Any:
    """Return a result; work that was in flight when a process died gets a second, lonely try."""
    try:
        return future.result()
    except BrokenProcessPool:
        pass
    alone = _new_pool(1)
    try:
        return alone.submit(function, *arguments).result()
    except BrokenProcessPool:
        return WorkerDied()
    finally:
        alone.shutdown(wait=False)
