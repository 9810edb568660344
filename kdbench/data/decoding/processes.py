"""The processes of a loader: how they start, why they ended, and how they are ended."""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Final, Literal, TypeVar, final

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from kdbench.utils.resources import SHARED_MEMORY
from kdbench.utils.signals import DEFERRED

START: Final[Literal["fork", "spawn"]] = "fork" if sys.platform == "linux" else "spawn"
"""How processes start."""
PREFETCH: Final = 2
"""Results, such as batches, that each process makes ahead."""
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def too_small(num_workers: int) -> str:
    """Say that shared memory is full, and what to do."""
    return (
        f"{SHARED_MEMORY} is full: type --workers 0, or fewer than {num_workers}, or give the job or container more "
        "shared memory (--shm-size of docker)"
    )


def reason_of(code: int, num_workers: int) -> str:
    """Say why a process ended, by its exit code."""
    if code == -signal.SIGBUS:
        return f"ended since {too_small(num_workers)}"
    if code == -signal.SIGKILL:
        return (
            f"was killed, as systems do when memory is short: type --workers 0, or fewer than {num_workers}, or give "
            "the job more memory"
        )
    return f"ended with exit code {code}" if code > 0 else f"ended by signal {-code}"


def prepare_worker(_: int) -> None:
    """Make a process that decodes quiet and small, and let it end with its parent; called in it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for signum in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):
        signal.signal(signum, signal.SIG_DFL)  # PyTorch's handlers write to the terminal; the parent says it
    gc.freeze()  # else the collector writes to the parent's objects, and each worker would get a copy of them


def _end_with_parent() -> None:
    """End this process when its parent has ended, however early.

    PyTorch's loop compares the parent with the one that it had when the loop began, and so misses an end before that.
    """
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def in_a_process(function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
    """Call a function in a process of its own, which writes nothing to the terminal; what it calls may crash.

    Raises
    ------
    ChildProcessError
        The process has crashed.
    """
    with undisturbed(), ProcessPoolExecutor(1, multiprocessing.get_context(START), _prepare_silent) as executor:
        try:
            return executor.submit(function, argument).result()
        except BrokenProcessPool:
            raise ChildProcessError("its reader crashes") from None


def _prepare_silent() -> None:
    """Make a process quiet whatever happens to it; called in it."""
    prepare_worker(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@final
class Processes:
    """Make what a dataset holds, with processes that live on or, with 0 of them, in this one.

    They start with the first results, in the order of a sampler, and leave signals to their parent. Each of them makes
    `PREFETCH` results ahead.
    """

    def __init__(self, dataset: Dataset[Any], sampler: Iterable[Any], num_workers: int, *, pin: bool = False) -> None:
        self._make = partial(
            DataLoader,
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin,
            generator=torch.Generator(),  # the global one is left alone
            prefetch_factor=PREFETCH if num_workers else None,
            persistent_workers=num_workers > 0,
            multiprocessing_context=START if num_workers else None,
            worker_init_fn=prepare_worker,
        )
        self._loader: DataLoader[Any] | None = None
        self.workers: list[multiprocessing.process.BaseProcess] = []
        self._end = partial(kill, self.workers)

    def results(self) -> Iterator[Any]:
        """Begin to make results, and return them; those of an earlier call are given up.

        Raises
        ------
        ChildProcessError
            From the iterator, too: a process was ended from outside.
        """
        return self._named(self._begin())

    def close(self) -> None:
        """End the processes; a later call of `results` starts new ones."""
        self._end()
        atexit.unregister(self._end)
        self._loader = None
        self.workers.clear()

    def _begin(self) -> Iterator[Any]:
        if self._loader is not None:
            with self._naming_dead_workers():
                return iter(self._loader)
        with undisturbed():
            self._loader = self._make()
            iterator = iter(self._loader)
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            self.workers += iterator._workers
            # They ignore SIGTERM, with which Python would end them at its own end, and wait.
            atexit.register(self._end)
        return iterator

    def _named(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self._naming_dead_workers():
                try:
                    result = next(iterator)
                except StopIteration:
                    return
            yield result

    @contextlib.contextmanager
    def _naming_dead_workers(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            # What a process was sending when it died breaks off, as an OSError, before it is seen to be dead.
            ending = wait([worker.sentinel for worker in self.workers], 0 if isinstance(error, RuntimeError) else 5)
            for worker in self.workers:
                if worker.sentinel in ending:
                    worker.join()
            dead = [worker for worker in self.workers if worker.exitcode is not None]
            if not dead:
                raise
            reason = reason_of(dead[0].exitcode or 0, len(self.workers))
            self.close()
            raise ChildProcessError(f"a process that decodes images (pid {dead[0].pid}) {reason}") from None


def kill(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """End processes, and wait for them."""
    with _unnoticed_ends():
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Start processes that never see the signals which ask their parent to end, and whose end disturbs no step.

    A child inherits the signals that are blocked, so that there is no moment in which it could be interrupted.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
    try:
        with _unnoticed_ends(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than CPUs, and of a fork beside threads
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _unnoticed_ends() -> Iterator[None]:
    """Keep PyTorch from raising an error wherever the main thread is when a worker ends, of any loader of the process.

    A loader that starts sets a handler for that, which is taken back; here ends are found where batches are waited for.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
