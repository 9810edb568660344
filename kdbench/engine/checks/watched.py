"""One method on one pair, watched for an epoch of a few small steps, interrupted, and run in another process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import from_arrays
from kdbench.engine.checks.small import CPU, NUM_STEPS, PAIRS, make_cell, make_source, steps, tiny_arrays, tiny_protocol
from kdbench.engine.progress import Diverged
from kdbench.engine.run import Options, Run
from kdbench.errors import UserError
from kdbench.models.weights import weights_hash
from kdbench.net import Outputs


def remembered(run: Run) -> str:
    """Hash of everything that is trained or remembered."""
    return weights_hash(
        {f"student.{k}": v for k, v in run.student.state_dict().items()}
        | {f"method.{k}": v for k, v in run.method.state_dict().items()}
    )


def trained(run: Run) -> dict[str, nn.Parameter]:
    """What is trained in some phase, by name."""
    ids = {id(parameter) for phase in run.phases for parameter in phase.parameters}
    modules = {"student": run.student, "method": run.method}
    found = {f"{m}.{name}": p for m, module in modules.items() for name, p in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if id(parameter) in ids}


def places(run: Run) -> dict[str, int]:
    """Where in memory everything lies that is trained or remembered."""
    modules = {"student": run.student, "method": run.method}
    return {f"{m}.{k}": v.data_ptr() for m, module in modules.items() for k, v in module.state_dict().items()}


class Refused(Exception):
    """The method says that it cannot work on these networks, or on this batch."""


@final
@dataclass
class Epoch:
    """What was seen in the first epoch of one phase."""

    run: Run
    number: int
    """As a run counts its epochs: below 1 in pre-training."""
    student: dict[str, Tensor]
    """The student's first state."""
    places: tuple[dict[str, int], dict[str, int]]
    """After the first step and after the last."""
    teacher: tuple[str, str]
    """Hashes of the teacher's weights before and after; empty without a teacher."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """Of each step."""
    remembered: list[str] = field(default_factory=list)
    """After each step."""
    reached: set[str] = field(default_factory=set)
    """Parameters that got a gradient in some step."""
    endless: set[str] = field(default_factory=set)
    """Those whose gradient was not finite."""
    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)
    """Image numbers and plain views of each step."""
    changed: set[str] = field(default_factory=set)
    """What the method was given and changed."""
    asked: bool = False
    """Whether the method ran the teacher itself."""


@final
class Trial:
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
        source = make_source(teacher, protocol, self.dataset) if cell.teacher else None
        batches = Batches(DeviceData(self.dataset, protocol, CPU), protocol, seed)
        try:
            return Run(cell, batches, source, Options(runs=self.folder, device=CPU))
        except UserError as error:
            raise Refused(str(error.__context__ or error)) from None

    def runs(self, **changes: Any) -> Iterator[Run]:
        """Build a run for each phase at the beginning of that phase: pre-training, if there is some, and the rest."""
        run = self.run(**changes)
        before = run.epoch < 1
        yield run
        if before:
            run = self.run(**changes)
            run.go_to(1)
            yield run

    @cached_property
    def outcome(self) -> list[Epoch] | Exception:
        """The first epoch of each phase, watched, or what went wrong in them."""
        try:
            return [_watch(run) for run in self.runs()]
        except Exception as error:
            return error

    @property
    def epochs(self) -> list[Epoch]:
        """The first epoch of each phase, watched. What goes wrong in them is raised whenever they are asked for."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @cached_property
    def halves(self) -> list[Halves]:
        """Of each phase, an epoch that is interrupted after its first step."""
        found = []
        for first, second in zip(self.runs(), self.runs(), strict=True):
            steps(first, 1)
            with contextlib.suppress(Diverged):  # what is not finite is another check's to say
                first.drain()
            first.save()
            second.resume()
            found.append(Halves(first, second, remembered(second)))
        return found

    @cached_property
    def elsewhere(self) -> list[str]:
        """What is trained and remembered after the first step of each phase in another process."""
        return first_steps_elsewhere([(self.method, self.pair, self.settings)])[0]


@final
@dataclass(frozen=True, slots=True)
class Halves:
    """Two runs of one cell: one that was saved after a step, and one that goes on from there."""

    first: Run
    second: Run
    restored: str
    """What the second remembered to begin with."""


def _watch(run: Run) -> Epoch:
    frozen = run.source.teacher.net if run.source else None
    live = run.source.live.net if run.source else None
    inside = False

    def weights() -> str:
        return "".join(weights_hash(net.state_dict()) for net in (frozen, live) if net)

    begun = {name: value.clone() for name, value in run.student.backbone.state_dict().items()}
    epoch = Epoch(run, run.epoch, begun, ({}, {}), (weights(), ""))

    def update(images: Tensor, index: Tensor, teacher: Outputs) -> Tensor:
        nonlocal inside
        given = {"its images": images, "its image numbers": index, "the labels": run.data.labels, **_parts(teacher)}
        before = {name: tensor.clone() for name, tensor in given.items()}
        epoch.seen.append((index.tolist(), images[: len(index)].clone()))
        inside = True
        values = original(images, index, teacher)
        inside = False
        epoch.changed |= {name for name, tensor in given.items() if not torch.equal(tensor, before[name])}
        epoch.terms.append(dict(zip(run.terms, values.tolist(), strict=True)))
        return values

    def note_asking(*_: Any) -> None:
        epoch.asked |= inside

    original, run.update = run.update, update  # type: ignore[method-assign]
    if frozen:
        frozen.register_forward_pre_hook(note_asking)
    for step in range(NUM_STEPS):
        steps(run, 1)
        for name, parameter in trained(run).items():
            if parameter.grad is not None:
                epoch.reached.add(name)
                epoch.endless |= set() if parameter.grad.isfinite().all() else {name}
        epoch.remembered.append(remembered(run))
        if step == 0:
            epoch.places = places(run), {}
    run.update = original  # type: ignore[method-assign]
    epoch.places = epoch.places[0], places(run)
    epoch.teacher = epoch.teacher[0], weights()
    return epoch


def _parts(outputs: Outputs) -> dict[str, Tensor]:
    """The tensors that a teacher gives."""
    found = {}
    for name, part in outputs.parts().items():
        for number, tensor in enumerate(part if isinstance(part, tuple) else (part,)):
            found[f"the teacher's {name}" + (f" {number}" if isinstance(part, tuple) else "")] = tensor
    return found


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
        for run in Trial(method, pair, Path(os.devnull), settings).runs():
            steps(run, 1)
            found[-1].append(remembered(run))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
