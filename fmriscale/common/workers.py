"""Do independent work in processes and hand the results back in order."""

import collections
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

TRIES = 2  # An item that has killed this many processes is given up
STARTS = 5  # Attempts to start a process
END_SECONDS = 5.0  # How long a process that is stopped is waited for, s
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""With a fork server, workers share one import of the libraries; Windows has none."""
_number = 0  # Of this process among the workers of its pool

Work = Callable[..., Any]
Item = tuple[int, tuple]  # The number of an item of work, and its arguments


class WorkerDied(Exception):
    """The process of an item died, and the process of its second try died too."""


class TimedOut(Exception):
    """An item was not done in time."""


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_number() -> int:
    """Return the number of this process among the workers of its pool, from 0; 0 outside of any pool."""
    return _number


def map_in_order(
    function: Work, work: Iterable[tuple], jobs: int, limit: float = 0.0, libraries: Iterable[str] = ()
) -> Generator[Any, None, None]:
    """Yield `function(*arguments)` for every item of work, in order; two results a job wait at most.

    Numerical libraries run one thread a process, so that results do not depend on the number of jobs. An item
    whose process dies twice gives a `WorkerDied`, one that takes longer than `limit` (s) a `TimedOut`.
    """
    if jobs == 1:
        yield from _map_here(function, work, limit)
        return
    items, position = enumerate(work), 0
    pool = _Pool(function, jobs, [function.__module__, *libraries], limit)
    try:
        while pool.hand_out(items):
            pool.collect()
            pool.stop_overdue()
            while position in pool.results:
                yield pool.results.pop(position)
                position += 1
    finally:
        pool.close()


def _map_here(function: Work, work: Iterable[tuple], limit: float) -> Iterator[Any]:
    """Do one item after the other; with a limit in a thread, which is left behind where it hangs."""
    if not limit:
        with threadpool_limits(1):
            for arguments in work:
                yield function(*arguments)
        return
    tasks = queue.SimpleQueue[tuple]()
    answers: queue.SimpleQueue | None = None
    try:
        for arguments in work:
            if answers is None:
                tasks, answers = queue.SimpleQueue(), queue.SimpleQueue()
                threading.Thread(target=_answer, args=(function, tasks, answers), daemon=True).start()
            tasks.put((arguments,))
            try:
                value, error = answers.get(timeout=limit)
            except queue.Empty:
                answers, value, error = None, TimedOut(), None
                tasks.put(())  # whenever it is done, it ends
            if error is not None:
                raise error
            yield value
    finally:
        tasks.put(())


def _answer(function: Work, tasks: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """Work in a thread until there is an empty task."""
    with threadpool_limits(1):
        while task := tasks.get():
            try:
                answer = (function(*task[0]), None)
            except BaseException as error:  # whatever it is, the other thread raises it
                answer = (None, error)
            answers.put(answer)


class _Pool:
    """Processes, the items that they work on, and the results that wait for their turn."""

    def __init__(self, function: Work, jobs: int, preload: list[str], limit: float) -> None:
        self.results: dict[int, Any] = {}
        self._function, self._jobs, self._preload, self._limit = function, jobs, preload, limit
        self._idle = [_Worker(function, preload, number) for number in range(jobs)]
        self._busy: dict[Any, _Worker] = {}
        self._again: collections.deque[Item] = collections.deque()
        self._deaths: collections.Counter[int] = collections.Counter()

    def hand_out(self, items: Iterator[Item]) -> bool:
        """Give idle processes work; return whether any process works."""
        while self._idle and len(self._busy) + len(self.results) < 3 * self._jobs:
            item = self._again.popleft() if self._again else next(items, None)
            if item is None:
                break
            worker = self._idle.pop()
            worker.begin(item)
            self._busy[worker.pipe] = worker
        return bool(self._busy)

    def collect(self) -> None:
        """Wait until a process answers, dies, or is overdue; keep what came."""
        begun = [worker.begun for worker in self._busy.values() if worker.begun is not None]
        left = max(0.0, min(begun) + self._limit - time.monotonic()) if self._limit and begun else None
        answering: list[Any] = wait(list(self._busy), left)
        for pipe in answering:
            worker = self._busy.pop(pipe)
            try:
                answer = pipe.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if worker.begun is None:  # its first message says that it has started
                worker.ready, worker.begun = True, time.monotonic()
                self._busy[pipe] = worker
                continue
            self._idle.append(worker)
            value, error = answer
            if error is not None:
                raise error
            self.results[worker.item[0]] = value

    def stop_overdue(self) -> None:
        """End the processes whose item takes too long."""
        for pipe, worker in list(self._busy.items()):
            late = worker.begun is not None and time.monotonic() - worker.begun >= self._limit
            if self._limit and late and not pipe.poll():
                worker.end(kill=True)
                self.results[worker.item[0]] = TimedOut()
                del self._busy[pipe]
                self._idle.append(_Worker(self._function, self._preload, worker.number))

    def close(self) -> None:
        """End all processes."""
        for worker in (*self._idle, *self._busy.values()):
            worker.end()

    def _replace(self, worker: "_Worker") -> None:
        """Start another process for one that died, and try its item once more."""
        worker.end()
        self._idle.append(_Worker(self._function, self._preload, worker.number))
        number = worker.item[0]
        self._deaths[number] += 1
        if self._deaths[number] < TRIES:
            self._again.append(worker.item)
        else:
            self.results[number] = WorkerDied()


class _Worker:
    """A process that does one item at a time, and ends when this process ends, however it ends."""

    def __init__(self, function: Work, preload: list[str], number: int) -> None:
        self.number = number
        context: Any = multiprocessing.get_context(START_METHOD)
        context.set_forkserver_preload(preload)
        self.item: Item = (-1, ())
        self.ready = False
        self.begun: float | None = None
        environment, folder = dict(os.environ, OMP_NUM_THREADS="1"), str(Path.cwd())
        for attempt in range(STARTS):
            self.pipe, other_end = context.Pipe()
            arguments = (function, other_end, environment, folder, number)
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            try:
                _start_server()
                self._process.start()
                break
            except (EOFError, OSError):  # the fork server was killed; the next attempt starts it too
                if attempt == STARTS - 1:
                    raise
            finally:
                other_end.close()

    def begin(self, item: Item) -> None:
        """Hand over an item; a process that died meanwhile is noticed when its answer is awaited."""
        self.item, self.begun = item, time.monotonic() if self.ready else None
        with contextlib.suppress(OSError):
            self.pipe.send(item[1])

    def end(self, kill: bool = False) -> None:
        """Stop the process, and wait until it writes no more."""
        self.pipe.close()
        if kill:  # whatever it waits for
            self._process.kill()
        self._process.terminate()
        self._process.join(END_SECONDS)


def _start_server() -> None:
    """Start the fork server with Ctrl-C held back for good, which would end its imports with a traceback."""
    if START_METHOD != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # first: the server starts it too, and it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Work, pipe: Connection, environment: dict[str, str], folder: str, number: int) -> None:
    """Work until the other end of the pipe is closed."""
    global _number
    _number = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    os.environ.update(environment)
    os.chdir(folder)
    with threadpool_limits(1):
        try:
            pipe.send(None)
            while True:
                arguments = pipe.recv()
                try:
                    answer = (function(*arguments), None)
                except Exception as error:
                    answer = (None, error)
                pipe.send(answer)
        except (EOFError, OSError):  # the parent is gone
            return
