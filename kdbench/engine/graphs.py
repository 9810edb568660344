"""Steps as CUDA graphs, for networks so small that launching their kernels takes longer than running them.

A graph is recorded from one step and replayed for the others, so a step must be the same work each time: nothing
waits for the device, shapes are fixed, state changes in place. Numbers that come from the epoch are constants in a
graph; therefore each epoch records its own. Its first step, and a last batch of another size, run as usual.

What runs share is made first; from there they are branches, on which a GPU works at the same time.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from kdbench.data.groups import Group
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.engine.shared import Inputs, Shared, SharedInputs
from kdbench.errors import UserError
from kdbench.utils.device import Span

_TURNS = 2
"""Replays of an epoch for which runs take turns, so that the time of each of them can be told."""


@functools.cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream | None:  # noqa: ARG001 - one for each number
    """Return the stream of a branch, again and again the same: libraries keep scratch memory for each stream."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


@final
class Branch:
    """The recorded step of a run: a graph for each group of images, the last one with the update, and loss terms.

    It is recorded on its own stream, and so has scratch memory of its own. PyTorch has one generator for a GPU: runs
    that draw from it take turns.
    """

    def __init__(self, graphs: list[torch.cuda.CUDAGraph], values: Tensor, stream: torch.cuda.Stream | None) -> None:
        self.values = values
        self._graphs, self._stream = graphs, stream
        self._draws = False
        self._spans: deque[Span] = deque(maxlen=_TURNS * len(graphs))

    def replay(self, number: int, made: torch.cuda.Event | None, device: torch.device) -> Span:
        """Do the work of a group once what is shared was made; return the time that it takes by itself.

        The generator must have been seeded right before. Where runs do not take turns, what comes after this waits for
        it, but for other branches.
        """
        graph = self._graphs[number]
        if self._stream is None or made is None or self._draws or len(self._spans) < _TURNS * len(self._graphs):
            with Span(device) as span:
                graph.replay()
            self._spans.append(span)
            if made is not None:
                self._draws |= torch.cuda.default_generators[made.device.index].get_offset() > 0
            return span
        after = torch.cuda.current_stream(device)
        self._stream.wait_event(made)
        with torch.cuda.stream(self._stream):
            graph.replay()
        after.wait_stream(self._stream)
        return self._spans[number - len(self._graphs)]


@final
class StepGraphs:
    """One graph for what the runs of a lockstep share, and one for each run and group of images."""

    def __init__(self, shared: SharedInputs, outcomes: Outcomes) -> None:
        self._shared, self._outcomes = shared, outcomes
        self.drop()

    def drop(self) -> None:
        """Forget the graphs: the epoch is over."""
        self._warm: set[str] = set()
        self._for: list[str] = []
        self._index = torch.empty(0)
        self._inputs = Inputs({}, {})
        self._making = torch.cuda.CUDAGraph()
        self._branches: dict[str, Branch] = {}

    def replay(self, step: int, joined: list[Run]) -> bool:
        """Do a step; False where it, or what is left of its runs, has to be done as usual."""
        names = [run.cell.id for run in joined]
        if not self._warm >= set(names):
            self._warm |= set(names)
            return False
        shared, device, feeds = self._shared, self._shared.device, [run.feed for run in joined]
        groups = shared.batches.groups(step)
        try:
            inputs = [shared.look_up(group, feeds) for group in groups]
        except Exception:
            return False  # it fails again there, for each feed apart
        if names != self._for and not self._record(groups, inputs[0], joined):
            return False
        runs = [run for run in joined if run.cell.id in self._branches]  # the others could not be recorded, and failed
        for run in runs:
            run.begin_step()
        for group, looked_up in zip(groups, inputs, strict=True):
            with Span(device) as making:
                self._index.copy_(group.index)
                for recorded, new in zip(self._inputs.tensors(), looked_up.tensors(), strict=True):
                    recorded.copy_(new)
                self._making.replay()
            made = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
            for run in runs:
                run.begin_group(group)
                updating = self._branches[run.cell.id].replay(group.number, made, device)
                run.tally.time([making, updating])
        for run in runs:
            with self._outcomes.attempt(run):
                run.count(self._branches[run.cell.id].values.clone(), [])
        return True

    def _record(self, groups: list[Group], inputs: Inputs, joined: list[Run]) -> bool:
        """Record a step; return whether what the runs share could be recorded."""
        self._for = []  # until all is recorded: without its graphs a step would be done by nobody
        self._index, self._inputs = groups[0].index.clone(), inputs.clone()
        self._making, self._branches = torch.cuda.CUDAGraph(), {}
        try:
            with torch.cuda.graph(self._making):
                shared = self._shared.make(self._index, self._inputs)
        except Exception:
            self._fail_what_cannot_be_made(groups[0], joined)
            return False
        self._making.replay()  # so that the runs are recorded on real values
        for number, run in enumerate(joined):
            with self._outcomes.attempt(run):
                stream = _stream(self._shared.device, number)
                self._branches[run.cell.id] = self._record_run(run, groups, shared[run.feed], stream)
        self._for = [run.cell.id for run in joined]
        return True

    def _fail_what_cannot_be_made(self, group: Group, joined: list[Run]) -> None:
        """Record each feed apart, so that no run fails with another feed's error."""
        for feed in dict.fromkeys(run.feed for run in joined):
            try:
                with torch.cuda.graph(torch.cuda.CUDAGraph()):
                    self._shared.make(self._index, self._shared.look_up(group, [feed]))
            except Exception as error:
                for run in joined:
                    if run.feed == feed:
                        self._outcomes.fail(run, error)

    def _record_run(self, run: Run, groups: list[Group], shared: Shared, stream: torch.cuda.Stream | None) -> Branch:
        """Record one graph for each group. All of them share their memory."""
        graphs: list[torch.cuda.CUDAGraph] = []
        values = torch.empty(0)
        try:
            for group in groups:
                graph = torch.cuda.CUDAGraph()
                graph.register_generator_state(run.generator)
                with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None, stream=stream):
                    run.add(replace(group, index=self._index), shared.images, shared.teacher)
                    if group is groups[-1]:
                        values = run.update()
                graphs.append(graph)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{run.cell} cannot be one CUDA graph ({reason}): leave --compile out") from None
        return Branch(graphs, values, stream)
