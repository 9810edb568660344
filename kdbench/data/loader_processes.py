"""The processes of a loader: how they start, why they ended, and how they are ended."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.process
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence

from kdbench.utils.resources import SHARED_MEMORY
from kdbench.utils.signals import DEFERRED


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
    """Make a process that decodes quiet and small; called in it."""
    for signum in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):
        signal.signal(signum, signal.SIG_DFL)  # PyTorch's handlers write to the terminal; the parent says it
    gc.freeze()  # else the collector writes to the parent's objects, and each worker would get a copy of them


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
