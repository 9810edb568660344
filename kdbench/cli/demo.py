"""``kdbench demo``: a whole comparison on embedded data."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdbench.cli.grid_running import OpenGrid, cells_to_run, open_grid, start
from kdbench.cli.options import DEMO, DeviceOption, RunsOption, command_line, echo, next_command, print_tables
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.experiment.protocol import Protocol


_LOCKSTEP = 3
"""Cells of one seed that a process trains in lockstep: half of the methods."""


def demo(context: typer.Context, runs: RunsOption = Path("runs"), device: DeviceOption = None) -> None:
    """Run a small comparison on embedded data, in minutes.

    Trains a teacher, then students with and without it, prints a table and writes a report.
    """
    from kdbench.experiment.pairs import Pair
    from kdbench.experiment.protocol import load_protocol
    from kdbench.grid.submissions import Launch

    protocol = load_protocol(DEMO)
    opened = open_grid(context, _write_grid(protocol, runs), runs, None, device=device)
    if cells := cells_to_run(opened):
        # Networks this small gain little from threads: a process for each core, and groups that fill the processes.
        on_cpu = opened.grid.session.device.type == "cpu"
        jobs = min(len(protocol.demo.seeds), os.cpu_count() or 1) if on_cpu else 1
        launch = Launch(jobs=jobs, lockstep=_LOCKSTEP, device=device)
        start(opened, cells, None, launch, stay=True)
    _show(context, opened)
    following = load_protocol(protocol.demo.next)
    pair = Pair.parse(following.demo.pair)
    echo("\nThe same on CIFAR-100 (a GPU is advised):")
    rules, data, keep = ("--protocol", following.name), ("--data", "data"), ("runs", "device")
    teacher = command_line(
        context, "teacher", "train", *rules, "--network", pair.teacher, *data, "--download", keep=keep
    )
    taught = ("--teacher", pair.teacher, "--student", pair.student, "--method", following.demo.methods[-1], "--seed", 1)
    echo(f"  {teacher}")
    echo(f"  {command_line(context, 'train', *rules, *taught, *data, keep=keep)}")


def _write_grid(protocol: Protocol, runs: Path) -> Path:
    """Write the comparison that a protocol proposes as a grid's file."""
    import tomli_w

    from kdbench.utils.files import write_atomic

    proposed = protocol.demo
    lines = {"protocol": protocol.name, "pairs": [proposed.pair], "methods": proposed.methods, "seeds": proposed.seeds}
    path = runs / protocol.name / "demo.toml"
    write_atomic(path, tomli_w.dumps(lines))
    return path


def _show(context: typer.Context, opened: OpenGrid) -> None:
    """Print the table of a grid's cells, and write a report of all records.

    Raises
    ------
    UserError
        Some cells are not finished.
    """
    from kdbench.analysis.records import Records, as_frame, read_records
    from kdbench.analysis.report import write_report
    from kdbench.analysis.splitting import split
    from kdbench.analysis.tables.layouts import detail
    from kdbench.experiment.folder import read_record

    protocol, runs = opened.grid.session.protocol, opened.grid.session.runs
    finished = [record for cell in opened.grid.cells if (record := read_record(cell.folder(runs), cell))]
    if len(finished) < len(opened.grid.cells):
        raise UserError(f"some cells are not finished: type {opened.command('status')} to see why")
    (comparison,) = split(Records(as_frame(finished), [], []))
    echo()
    print_tables([detail(comparison, column) for column in comparison.pairs], "terminal")
    echo()
    echo(
        f"The teacher trained for {protocol.teacher_epochs} epochs, the students for {protocol.epochs}: "
        "a teacher helps most where training is short.\n"
        "Digits are easy: students that train longer learn them from the labels alone, and the gains shrink.\n"
        "The table shows how a comparison is made; it does not decide which method is best."
    )
    table = next_command(context, "table", runs)
    echo(f"\nRecords: {runs / protocol.name}; type {table} to print this table again.")
    records = read_records(runs)
    command = shlex.join(["kdbench", "report", str(runs)])
    page, *_ = write_report(runs, runs / "report", split(records), records, command=command)
    echo(f"Report: {page}; open it in a browser.")
