"""The processes that compute cells with this one, one for each device: started here, or all by torchrun or Slurm.

This process leads them: see :mod:`kdbench.engine.follow` for what the others do.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import IO, Final, final

import torch
from torch.distributed import TCPStore, rendezvous  # type: ignore[attr-defined]

from kdbench.engine.devices import Place
from kdbench.utils.ranks import ALONE, RankLost, Ranks, join
from kdbench.utils.text import counted, printable

_LOCALHOST: Final = "127.0.0.1"
_READY: Final = "ready"
"""Key under which processes count themselves when they have begun."""
_START: Final = timedelta(minutes=10)
"""How long processes may take to begin."""
_POLL_SECONDS: Final = 0.2
_LAST_SECONDS: Final = 20.0
"""How long a process is waited for that should end by itself."""


@final
class Team(AbstractContextManager["Team"]):
    """The processes that compute the cells of one call, if there are several; they end with it.

    Parameters
    ----------
    size
        Processes, this one among them.
    device
        Of this process.
    work
        Returns what :func:`kdbench.engine.follow.main` reads; called when the processes are started.
    """

    def __init__(self, size: int = 1, device: torch.device | None = None, work: Callable[[], bytes] = bytes) -> None:
        self._size, self._device, self._work = size, device, work
        self._ranks = ALONE
        self._processes: list[subprocess.Popen[bytes]] = []
        self._errors: list[IO[bytes]] = []
        self._over = threading.Event()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if not self._processes:
            return
        if error is None:  # otherwise the others are somewhere else, and end when this one has left
            with contextlib.suppress(RankLost):
                self._ranks.tell({})
        self._ranks.leave()
        end = time.monotonic() + _LAST_SECONDS
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        self._kill()
        for errors in self._errors:
            errors.close()

    def call(self, kinds: Mapping[str, str | None]) -> Ranks:
        """Let all processes work on cells, of which it is told where the outputs of the teacher come from.

        Raises
        ------
        RankLost
            One of them did not start, or has ended.
        """
        if self._size == 1 or not self._device:
            return ALONE
        if self._ranks is ALONE:
            self._ranks = joined(self._device) if Place.of_launch() else self._start(self._device)
        self._ranks.tell(dict(kinds))
        return self._ranks

    def reason(self, error: RankLost) -> str:
        """Describe why the processes cannot go on: how one of them has ended, or else this error."""
        end = time.monotonic() + 2
        while time.monotonic() < end and self._processes:
            if ended := self._ended():
                return ended
            time.sleep(_POLL_SECONDS)
        return str(error)

    def _start(self, device: torch.device) -> Ranks:
        store = TCPStore(_LOCALHOST, 0, self._size, is_master=True, wait_for_workers=False, timeout=_START)
        threads = str(torch.get_num_threads())
        shared = {
            "MASTER_ADDR": _LOCALHOST,
            "MASTER_PORT": str(store.port),
            "WORLD_SIZE": str(self._size),
            "OMP_NUM_THREADS": threads,
        }
        # What they say to each other stays on this machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        work = self._work()
        for rank in range(1, self._size):
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
            process = subprocess.Popen(
                [sys.executable, "-m", "kdbench.engine.follow"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # signals come to this process, and all stop at the same step
            )
            self._processes.append(process)
            self._errors.append(errors)
            assert process.stdin
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(work)
        while store.add(_READY, 0) < self._size - 1:
            if ended := self._ended():
                raise RankLost(ended)
            time.sleep(_POLL_SECONDS)
        ranks = join(0, self._size, device, store)
        threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        return ranks

    def _watch(self) -> None:
        """End all processes when one of them has ended before the others."""
        while not self._over.wait(_POLL_SECONDS):
            if ended := self._ended():
                self._kill()
                # What this process waits for fails now. Where it does not, as it may be with GPUs, nothing is lost:
                # the state is saved, and the lease of a process that has ended is free.
                if not self._over.wait(_LAST_SECONDS):
                    sys.stderr.write(f"kdbench: {ended}: type the same command to resume\n")
                    os._exit(1)
                return

    def _ended(self) -> str:
        """Describe how a process has ended; empty while all are there."""
        for rank, (process, errors) in enumerate(zip(self._processes, self._errors, strict=True), 1):
            code = process.poll()
            if code is None:
                continue
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            last = f": {printable(lines[-1])}" if lines and code > 0 else ""
            return f"the process of device {rank} of {counted(self._size, 'device')} {how}{last}"
        return ""

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@functools.cache
def joined(device: torch.device) -> Ranks:
    """Meet the processes that torchrun or Slurm has started with this one; they end with the leading one.

    Raises
    ------
    RankLost
        They cannot be reached.
    """
    place = Place.of_launch()
    assert place
    store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=_START))
    ranks = join(place.rank, place.size, device, store)
    atexit.register(_part, ranks)
    return ranks


def _part(ranks: Ranks) -> None:
    if ranks.leads:
        with contextlib.suppress(RankLost):
            ranks.tell({})
    ranks.leave()


def meet_leader(device: torch.device) -> Ranks:
    """Meet, in a process that :class:`Team` has started, the one that has started it."""
    rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    store = TCPStore(os.environ["MASTER_ADDR"], port, size, is_master=False, timeout=_START)
    store.add(_READY, 1)
    return join(rank, size, device, store)
