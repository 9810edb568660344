"""One method on one pair, watched for an epoch of a few small steps, interrupted, and run in another process."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import from_arrays
from kdbench.engine.checks.epoch import Epoch, state_hash, watch
from kdbench.engine.checks.small import CPU, NUM_STEPS, PAIRS, make_cell, make_source, steps, tiny_arrays, tiny_protocol
from kdbench.engine.divergence import Diverged
from kdbench.engine.options import Options
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.errors import UserError
from kdbench.teachers.sources import NetworkSource
from kdbench.utils.precision import Precision


class Refused(Exception):
    """The method says that it cannot work on these networks, or on this batch."""


@final
class Watched:
    """One method on one pair. What several checks look at is done once.

    Parameters
    ----------
    pair
        A key of ``PAIRS``.
    folder
        For states.
    """

    def __init__(self, method: str, pair: str, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.method, self.pair, self.folder, self.settings = method, pair, folder, settings or {}
        self.dataset = from_arrays("generated", tiny_arrays())
        self._teachers: dict[Precision, NetworkSource] = {}

    def run(self, seed: int = 1, **changes: Any) -> Run:
        """Build a run at its beginning, under a protocol with some changes.

        Raises
        ------
        Refused
            The method refuses the pair.
        """
        protocol = tiny_protocol(self.dataset, **changes)
        teacher, student = PAIRS[self.pair]
        cell = make_cell(protocol, self.method, teacher, student, seed, self.settings)
        source = self._teacher(protocol.precision) if cell.teacher else None
        batches = Batches(DeviceData(self.dataset, protocol, CPU), protocol, seed)
        try:
            return Run(cell, batches, source, Options(runs=self.folder, device=CPU))
        except UserError as error:
            raise Refused(str(error.__context__ or error)) from None

    def _teacher(self, precision: Precision) -> NetworkSource:
        """Return the method's own copy of the teacher, which no other method sees if this one spoils it."""
        if precision not in self._teachers:
            self._teachers[precision] = copy.deepcopy(_ready_teacher(PAIRS[self.pair][0], precision))
        return self._teachers[precision]

    def runs(self, **changes: Any) -> Iterator[Run]:
        """Build a run for each phase at the beginning of that phase: pre-training, if there is some, and the rest."""
        run = self.run(**changes)
        before = run.phase.pretraining
        yield run
        if before:
            run = self.run(**changes)
            run.skip_pretraining()
            yield run

    @functools.cached_property
    def outcome(self) -> list[Epoch] | Exception:
        """The first epoch of each phase, watched, or what went wrong in them."""
        try:
            return [watch(run) for run in self.runs()]
        except Exception as error:
            return error

    @property
    def epochs(self) -> list[Epoch]:
        """The first epoch of each phase, watched. What goes wrong in them is raised whenever they are asked for."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @functools.cached_property
    def halves(self) -> list[Halves]:
        """Of each phase, an epoch that is interrupted before its last step: by then all has changed that changes."""
        found = []
        for first, second in zip(self.runs(), self.runs(), strict=True):
            steps(first, NUM_STEPS - 1)
            with contextlib.suppress(Diverged):  # what is not finite is another check's to say
                first.flush_losses()
            save(first)
            resume(second)
            found.append(Halves(first, second, state_hash(second)))
        return found

    @functools.cached_property
    def elsewhere(self) -> list[str]:
        """What is trained and remembered after the first step of each phase in another process."""
        return first_steps_elsewhere([(self.method, self.pair, self.settings)])[0]


@final
@dataclass(frozen=True, slots=True)
class Halves:
    """Two runs of one cell: one that was saved before the last step of an epoch, and one that resumes there."""

    first: Run
    second: Run
    restored: str
    """Hash of what the second run begins with."""


@functools.cache
def _ready_teacher(network: str, precision: Precision) -> NetworkSource:
    """Make the teacher of all methods on generated images, its batch norms fused."""
    dataset = from_arrays("generated", tiny_arrays())
    source = make_source(network, tiny_protocol(dataset, precision=precision), dataset)
    source.live.net  # noqa: B018 - made when it is first needed
    return source


def first_steps_elsewhere(cells: Sequence[tuple[str, str, dict[str, Any]]]) -> list[list[str]]:
    """Do the first step of each phase of methods on pairs, with settings, in another process; return what is left.

    Raises
    ------
    RuntimeError
        The process ended with an error.
    """
    # Sets of texts have another order there.
    chance = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    done = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "kdbench.engine.checks.watched", json.dumps([torch.get_num_threads(), cells])],
        env=os.environ | chance,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(words: str) -> None:
    threads, cells = json.loads(words)
    torch.set_num_threads(threads)
    found: list[list[str]] = []
    for method, pair, settings in cells:
        found.append([])
        for run in Watched(method, pair, Path(os.devnull), settings).runs():
            steps(run, 1)
            found[-1].append(state_hash(run))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
