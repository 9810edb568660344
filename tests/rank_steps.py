"""Five steps of methods by several processes; run as ``python rank_steps.py FILE NPZ FOLDER METHOD ...``.

The environment names the processes as torchrun's does. The leading one writes what it has computed to a file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from cells import Seen, end_epoch, make_run
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from kdbench.data import resident
from kdbench.engine.checks.small import CPU, steps
from kdbench.engine.evaluation import evaluate_runs
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.models.weights import weights_hash
from kdbench.utils.ranks import ALONE, Ranks, join

MOVING = ("running_mean", "running_var", "num_batches_tracked")
"""Running statistics, which are the first group's until they are shared."""
ARRAYS = ("labels", "predicted", "logits")
"""Of predictions."""
BATCH = {"batch_size": 32, "group_size": 8, "learning_rate": 1e-3}
"""Of 42 images: a step of four groups of 8, and one of 3, 3, 2 and 2."""


def states(run: Run) -> dict[str, Any]:
    return {**run.student.state_dict(), **{f"method.{name}": value for name, value in run.method.state_dict().items()}}


class Compared(Seen):
    """Compares, after every step, all that student and method keep but running statistics over the processes."""

    def __init__(self, run: Run, ranks: Ranks) -> None:
        super().__init__()
        self.run, self.ranks = run, ranks

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        super().ends(names, values)
        learnt = {name: value for name, value in states(self.run).items() if not name.endswith(MOVING)}
        hashes = self.ranks.tell_all(weights_hash(learnt))
        assert len(set(hashes)) == 1, f"{self.run.cell}: the processes differ after step {len(self.terms)}"


def computed(method: str, npz: Path, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Losses and weights of five steps in float64 and the metrics of the epochs, and losses of a step in float32."""
    torch.set_default_dtype(torch.float32)
    single, first = make_run(npz, folder / "single", method, ranks=ranks, **BATCH), Seen()
    with single.observed(first):
        steps(single, 1)
    torch.set_default_dtype(torch.float64)
    run = make_run(npz, folder, method, ranks=ranks, **BATCH)
    seen = Compared(run, ranks)
    with run.observed(seen):
        for number in (2, 2, 1):
            steps(run, number)
            run.flush_losses()
            run.share_statistics()  # each process evaluates some of the test images
            if number == 2:
                end_epoch(run)
    run.skip_pretraining()
    run.epoch = run.phase.epochs
    last = evaluate_runs([run], run.data.evaluation, Outcomes([run.cell]), ranks)[run.cell.id]
    predictions = run.tally.predictions
    assert (predictions is not None) == ranks.leads
    kept = {name: torch.from_numpy(getattr(predictions, name)) for name in ARRAYS} if predictions else {}
    return {
        "single": first.terms,
        "losses": seen.terms,
        "weights": states(run),
        "metrics": [*run.tally.history, last],
        "per_class": run.tally.per_class,
        "predictions": kept,
    }


def main(file: str, npz: str, folder: str, *methods: str) -> None:
    torch.set_num_threads(1)
    resident.forward_batch = lambda _: 4  # type: ignore[assignment] # several batches of test images, not equally many
    rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    ranks = join(rank, size, CPU, TCPStore("127.0.0.1", port, size, is_master=rank == 0)) if size > 1 else ALONE
    try:
        results = {method: computed(method, Path(npz), Path(folder) / method, ranks) for method in methods}
        if ranks.leads:
            torch.save(results, file)
    finally:
        ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
