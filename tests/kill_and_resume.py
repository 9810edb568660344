"""Run by test_resume.py in a process of its own: kills each method's training with SIGKILL at a drawn step, resumes it,
and prints what it left as JSON beside what an undisturbed run left. Forks, so that PyTorch is imported once."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimiser of a process imports, in seconds: here once for all that are forked
from cells import CPU, METHODS, PAIRS, make_cell, make_source, tiny_protocol

from kdbench.data.batches import DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.engine.options import Options
from kdbench.engine.run import Run
from kdbench.engine.train import train_cells
from kdbench.experiment.folder import RECORD

torch.set_num_threads(1)


def in_child(npz: Path, runs: Path, method: str, kill_at: int | None = None) -> int:
    """Train in a forked process and return how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(npz, runs, method, kill_at)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(npz: Path, runs: Path, method: str, kill_at: int | None = None) -> None:
    """Train a cell, saving after every step; end with SIGKILL in the middle of update number ``kill_at``."""
    dataset = load_dataset(f"npz:{npz}", Path())
    protocol = tiny_protocol(dataset)
    teacher, student = PAIRS["cifar"]
    cell = make_cell(protocol, method, teacher, student)
    done = 0
    step = torch.amp.GradScaler.step  # of every optimiser

    def step_or_die(self: Any, *args: Any) -> Any:
        nonlocal done
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return step(self, *args)

    torch.amp.GradScaler.step = step_or_die  # type: ignore[method-assign]
    source = make_source(teacher, protocol, dataset) if cell.teacher else None
    options = Options(runs=runs, device=CPU, save_every=0.0)
    (outcome,) = train_cells([cell], lambda: DeviceData(dataset, protocol, CPU), lambda _: source, options)
    assert isinstance(outcome, dict), outcome


def left(runs: Path) -> dict[str, Any]:
    """Record and metrics of the one cell below a folder, without its times and the state of the checkout."""
    (path,) = runs.glob(f"**/{RECORD}")
    record = json.loads(path.read_bytes())
    for name in ("train_seconds", "evaluate_seconds", "images_per_second", "peak_memory_mb"):
        del record["cost"][name]
    for name in ("commit", "dirty"):  # of the checkout, which may be worked on meanwhile
        del record["environment"][name]
    del record["record_hash"]  # it covers all of these
    record["metrics"] = path.with_name("metrics.jsonl").read_text()
    record["files"] = sorted(f.name for f in path.parent.iterdir())
    return record


def main(npz: Path, folder: Path) -> None:
    chance = random.Random(20251122)
    results = {}
    for method in METHODS:
        quiet, killed = folder / f"{method}-quiet", folder / f"{method}-killed"
        quiet_end = in_child(npz, quiet, method)
        kill_at = chance.randrange(1, 6)
        ends = [in_child(npz, killed, method, kill_at), in_child(npz, killed, method)]
        results[method] = {
            "ends": [quiet_end, *ends],
            "kill_at": kill_at,
            "quiet": left(quiet),
            "killed": left(killed),
        }
    json.dump(results, sys.stdout)


assert Run  # imported before the first fork
main(Path(sys.argv[1]), Path(sys.argv[2]))
