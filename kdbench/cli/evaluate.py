"""``kdbench eval``: measure trained networks on test images, or by a linear probe on other data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.options import (
    DataOption,
    DeviceOption,
    DownloadOption,
    WorkersOption,
    console,
    echo,
    print_rows,
    progress_bar,
)
from kdbench.cli.output import write_error, write_utf8
from kdbench.errors import UserError
from kdbench.utils.text import printable

if TYPE_CHECKING:
    import torch

    from kdbench.engine.transfer import Wanted

_COLUMNS = ("top1", "top5", "balanced_accuracy", "macro_f1", "ece", "nll", "recorded_top1")
FolderArgument = Annotated[
    Path, typer.Argument(help="Folder of a finished cell or of a teacher, or the record in it.", metavar="FOLDER")
]


def eval_(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished cells or of teachers, or the records in them.", metavar="FOLDER..."),
    ],
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure transfer: train a linear classifier on the network's features.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A data set of 'kdbench list datasets' in place of the one that the network was trained on.",
            metavar="NAME",
        ),
    ] = None,
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, with all that was done.")] = False,
) -> None:
    """Measure trained students and teachers on their own test images, or on others.

    Without --probe, the accuracy on the test images of the network's own data, or of --data or --dataset with the same
    classes in the same order.

    With --probe, transfer to other classes, as CRD and others report it for STL-10 and Tiny ImageNet: multinomial
    logistic regression on frozen penultimate features of unaugmented training images. The features are standardised.
    The L2 penalty, of 13 from 1 to 1e-6, is the one with the best accuracy on a fifth of the training images; the
    classifier is then fitted to all of them, and measured on the test images. Images of another size are resized,
    bilinearly, to the network's. E.g. --probe --dataset stl10, or --probe --data tinyimagenet:DIR.
    """
    from kdbench.engine.transfer import Wanted
    from kdbench.utils.device import pick_device, prepare_process

    place = prepare_process(pick_device(device))
    wanted = Wanted(data=data, name=dataset, download=download, workers=workers, report=report)
    results: list[dict[str, Any]] = []
    problems: list[UserError] = []
    for folder in folders:
        try:
            results.append(_measured(folder, wanted, place, probe=probe))
        except UserError as error:
            problems.append(error)
    if as_json and results:
        write_utf8(json.dumps(results, indent=2) + "\n")
    elif results:
        _print(results)
    for problem in problems[:-1]:
        write_error(str(problem))
    if problems:
        raise problems[-1]


def _measured(folder: Path, wanted: Wanted, device: torch.device, *, probe: bool) -> dict[str, Any]:
    """Measure one network."""
    from kdbench.engine.described import described
    from kdbench.engine.trained import Trained, read_net
    from kdbench.engine.transfer import accuracy, transfer
    from kdbench.utils.device import memory_format

    source = described(folder, wanted.find_size)
    net = Trained(read_net(source), source.protocol.rules.augmentation)
    net.to(device, memory_format=memory_format(device, "fp32"))  # type: ignore[call-overload]
    dataset = wanted.open(net, source)
    with progress_bar(console()) as bar:
        tasks: dict[str, Any] = {}

        def observe(work: str, part: float) -> None:
            if work not in tasks:
                tasks[work] = bar.add_task(work, total=1.0)
            bar.update(tasks[work], completed=part)

        result = transfer(net, dataset, device, observe) if probe else accuracy(net, source, dataset, observe)
    seen = {"data": dataset.name, "fingerprint": dataset.fingerprint, "test_images": len(dataset.test_labels)}
    return {"network": source.name, "folder": str(folder), "weights": source.weights_hash, **seen, **result}


def report(line: str) -> None:
    """Print a line about the work beside the output, which may be for programs."""
    sys.stderr.write(f"{printable(line)}\n")


def _print(results: list[dict[str, Any]]) -> None:
    """Print a row for each network, then how it was measured and what it may not mean."""
    names = [name for name in _COLUMNS if any(name in result for result in results)]
    rows = [
        {"network": result["network"], "data": result["data"], "images": f"{result['test_images']:,}"}
        | {name: f"{result[name]:.{4 if name == 'nll' else 2}f}" for name in names if name in result}
        for result in results
    ]
    print_rows(rows)
    for result in results:
        if "probe" in result:
            echo(f"{result['network']}: {_probe(result['probe'])}")
    for remark in dict.fromkeys(remark for result in results for remark in result["remarks"]):
        echo(f"warning: {remark}")


def _probe(probe: dict[str, Any]) -> str:
    """Say how a probe was fitted."""
    return (
        f"logistic regression on {probe['width']:,} standardised features of {probe['train_images']:,} training "
        f"images; L2 {probe['l2']:g} chosen by {probe['held_out']:,} of them ({probe['held_out_top1']:.2f} %), then "
        "fitted to all"
    )
