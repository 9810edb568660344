"""Two devices over one, as processes on the CPU; run with ``pytest tests/bench_devices.py --benchmark-only``."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.fabricated import fabricated
from kdbench.engine.checks.small import CPU, begin, make_cell
from kdbench.engine.options import Options
from kdbench.engine.run import Run
from kdbench.experiment.protocol import load_protocol
from kdbench.utils.device import prepare_process
from kdbench.utils.ranks import ALONE, join

ROUNDS, STEPS = 5, 12


def step_seconds(size: int, folder: Path) -> float:
    """Seconds of a step of so many processes, of one thread each; median of the leading one's."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, __file__, str(size), str(port), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    texts = [process.communicate(timeout=600)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return float(texts[0])


def test_a_step_of_two_processes_over_that_of_one(benchmark: Any, tmp_path: Path) -> None:
    """resnet20 on images of 32 x 32, batch 256 in groups of 64; processes of both kinds are started in turns."""

    def ratio() -> float:
        rounds = [(step_seconds(2, tmp_path), step_seconds(1, tmp_path)) for _ in range(ROUNDS)]
        two, one = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        return two / one

    benchmark.extra_info |= {"ratio": benchmark.pedantic(ratio, rounds=1), "target": 0.60}


def main(size: int, port: int, folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    prepare_process(CPU)
    ranks = join(rank, size, CPU, TCPStore("127.0.0.1", port, size, is_master=rank == 0)) if size > 1 else ALONE
    protocol = load_protocol("cifar100-crd-v1").override(batch_size=256, group_size=64)
    batches = Batches(DeviceData(fabricated(protocol), protocol, CPU), protocol, 1, ranks)
    cell = make_cell(protocol, "ce", "resnet20", "resnet20")
    step = begin(Run(cell, batches, None, Options(runs=folder, device=CPU, ranks=ranks)))
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    ranks.leave()
    sys.stdout.write(str(statistics.median(seconds)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
