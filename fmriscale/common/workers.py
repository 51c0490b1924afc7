"""Do independent pieces of work in processes and hand the results back in order."""

import collections
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

TRIES = 2
"""Work that has killed this many processes is given up."""
STARTS = 5
"""Attempts to start a process."""
END_SECONDS = 5.0
"""How long a process that is stopped is waited for, s."""


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_order(
    function: Callable[..., Any],
    work: Iterable[tuple],
    jobs: int,
    limit: float = 0.0,
    libraries: Iterable[str] = (),
) -> Generator[Any, None, None]:
    """Yield `function(*arguments)` for every item of work, in order.

    Numerical libraries run one thread a process, with one job as with many, so that results do not
    depend on the number of jobs. Two results a job wait at most, so memory stays bounded. A process
    that dies takes nothing with it but its own work, which another process tries once more.
    """
    if jobs == 1:
        yield from _in_this_process(function, work, limit)
        return
    items, again, preload = enumerate(work), collections.deque(), [function.__module__, *libraries]
    deaths: collections.Counter[int] = collections.Counter()
    results: dict[int, Any] = {}
    idle, busy = [_Worker(function, preload) for _ in range(jobs)], dict[Any, _Worker]()
    position = 0
    try:
        while True:
            while idle and len(busy) + len(results) < 3 * jobs:
                item = again.popleft() if again else next(items, None)
                if item is None:
                    break
                worker = idle.pop()
                worker.begin(item)
                busy[worker.pipe] = worker
            if not busy:
                return
            running = [worker.began for worker in busy.values() if worker.began is not None]
            left = max(0.0, min(running) + limit - time.monotonic()) if limit and running else None
            for pipe in wait(list(busy), left):
                worker = busy.pop(pipe)
                number, arguments = worker.item
                try:
                    if worker.began is None:
                        worker.start_clock()
                        busy[pipe] = worker
                        continue
                    results[number] = worker.result()
                except (EOFError, OSError):
                    worker.end()
                    worker = _Worker(function, preload)
                    deaths[number] += 1
                    if deaths[number] < TRIES:
                        again.append((number, arguments))
                    else:
                        results[number] = WorkerDied()
                idle.append(worker)
            for pipe, worker in list(busy.items()):
                if limit and worker.began and time.monotonic() - worker.began >= limit and not pipe.poll():
                    worker.end(signal.SIGKILL)
                    results[worker.item[0]] = TimedOut()
                    del busy[pipe]
                    idle.append(_Worker(function, preload))
            while position in results:
                yield results.pop(position)
                position += 1
    finally:
        for worker in (*idle, *busy.values()):
            worker.end()


class WorkerDied(Exception):
    """Work whose process died, and whose next process died too."""


class TimedOut(Exception):
    """Work that was not done in time."""


def _in_this_process(function: Callable[..., Any], work: Iterable[tuple], limit: float) -> Iterator[Any]:
    """Do one item after the other; with a limit in a thread, which is left behind where it hangs.

    No signal wakes a process that waits for a dead mount, so an alarm would not end it.
    """
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


def _answer(function: Callable[..., Any], tasks: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """Work in a thread until there is an empty task."""
    with threadpool_limits(1):
        while task := tasks.get():
            try:
                answer = (function(*task[0]), None)
            except BaseException as error:  # whatever it is, the other thread raises it
                answer = (None, error)
            answers.put(answer)


class _Worker:
    """A process that does one piece of work at a time, and ends when this process ends, however it ends."""

    def __init__(self, function: Callable[..., Any], preload: list[str]) -> None:
        context = multiprocessing.get_context("forkserver")  # workers share one import of the libraries
        context.set_forkserver_preload(preload)
        self.item: tuple[int, tuple] = (-1, ())
        self.ready = False
        self.began: float | None = None
        here = (dict(os.environ, OMP_NUM_THREADS="1"), str(Path.cwd()))
        for attempt in range(STARTS):
            self.pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(function, theirs, here), daemon=True)
            try:
                _start_server()
                self._process.start()
                break
            except (EOFError, OSError):  # the server of processes was killed; the next start starts it too
                if attempt == STARTS - 1:
                    raise
            finally:
                theirs.close()

    def begin(self, item: tuple[int, tuple]) -> None:
        """Hand over a numbered piece of work; a process that died meanwhile is noticed by `result`."""
        self.item, self.began = item, time.monotonic() if self.ready else None
        with contextlib.suppress(OSError):
            self.pipe.send(item[1])

    def start_clock(self) -> None:
        """Take the first message, which says that the process has started; EOFError where it died."""
        self.pipe.recv()
        self.ready, self.began = True, time.monotonic()

    def result(self) -> Any:
        """Return the result; EOFError or OSError where the process died."""
        value, error = self.pipe.recv()
        if error is not None:
            raise error
        return value

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the process, and wait until it writes no more."""
        self.pipe.close()
        if how == signal.SIGKILL:  # what else it would do, it may wait for
            self._process.kill()
        self._process.terminate()
        self._process.join(END_SECONDS)


def _start_server() -> None:
    """Start the server of processes with Ctrl-C held back for good: the terminal sends it to all of them.

    While the server imports what all processes share, Python would end it with a traceback.
    """
    resource_tracker.ensure_running()  # first: the server starts it too, and it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[..., Any], pipe: Connection, here: tuple[dict[str, str], str]) -> None:
    """Work until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    os.environ.update(here[0])
    os.chdir(here[1])
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
