"""Steps as CUDA graphs, for networks so small that launching their kernels takes longer than running them.

A graph is recorded from one step and replayed for the others, so a step must be the same work each time: nothing
waits for the device, shapes are fixed, state changes in place. Numbers that come from the epoch are constants in a
graph; therefore each epoch records its own. Its first step, and a last batch of another size, run as usual.
"""

from __future__ import annotations

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
        self._updates: dict[str, tuple[list[torch.cuda.CUDAGraph], Tensor]] = {}

    def replay(self, step: int, joined: list[Run]) -> bool:
        """Do a step; False where it, or what is left of its runs, has to be done as usual."""
        names = [run.cell.id for run in joined]
        if not self._warm >= set(names):
            self._warm |= set(names)
            return False
        shared, feeds = self._shared, [run.feed for run in joined]
        groups = shared.batches.groups(step)
        try:
            inputs = [shared.look_up(group, feeds) for group in groups]
        except Exception:
            return False  # it fails again there, for each feed apart
        if names != self._for and not self._record(groups, inputs[0], joined):
            return False
        runs = [run for run in joined if run.cell.id in self._updates]  # the others could not be recorded, and failed
        for run in runs:
            run.begin_step()
        for group, looked_up in zip(groups, inputs, strict=True):
            with Span(shared.device) as making:
                self._index.copy_(group.index)
                for recorded, new in zip(self._inputs.tensors(), looked_up.tensors(), strict=True):
                    recorded.copy_(new)
                self._making.replay()
            for run in runs:
                run.begin_group(group)
                with Span(shared.device) as updating:
                    self._updates[run.cell.id][0][group.number].replay()
                run.tally.time([making, updating])
        for run in runs:
            with self._outcomes.attempt(run):
                run.count(self._updates[run.cell.id][1].clone(), [])
        return True

    def _record(self, groups: list[Group], inputs: Inputs, joined: list[Run]) -> bool:
        """Record a step; return whether what the runs share could be recorded."""
        self._for = []  # until all is recorded: without its graphs a step would be done by nobody
        self._index, self._inputs = groups[0].index.clone(), inputs.clone()
        self._making, self._updates = torch.cuda.CUDAGraph(), {}
        try:
            with torch.cuda.graph(self._making):
                shared = self._shared.make(self._index, self._inputs)
        except Exception:
            self._fail_what_cannot_be_made(groups[0], joined)
            return False
        self._making.replay()  # so that the runs are recorded on real values
        for run in joined:
            with self._outcomes.attempt(run):
                self._updates[run.cell.id] = self._record_run(run, groups, shared[run.feed])
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

    def _record_run(self, run: Run, groups: list[Group], shared: Shared) -> tuple[list[torch.cuda.CUDAGraph], Tensor]:
        """Record one graph for each group; the last one ends with the update. All of them share their memory."""
        graphs: list[torch.cuda.CUDAGraph] = []
        values = torch.empty(0)
        try:
            for group in groups:
                graph = torch.cuda.CUDAGraph()
                graph.register_generator_state(run.generator)
                with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None):
                    run.add(replace(group, index=self._index), shared.images, shared.teacher)
                    if group is groups[-1]:
                        values = run.update()
                graphs.append(graph)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{run.cell} cannot be one CUDA graph ({reason}): leave --compile out") from None
        return graphs, values
