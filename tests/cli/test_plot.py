"""``kdbench plot``: every picture as files that papers accept, and one line where data are missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import typing
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cells import Typed
from fake_records import fake_record, write_records
from plotted_runs import LABELS, NUM_CLASSES, plotted_records, write_plotted_runs
from report_pages import report
from searched_runs import write_search
from trained_runs import TrainedRuns

from kdbench.analysis.plots.curves import read_curve
from kdbench.analysis.plots.drawing import narrow_label
from kdbench.analysis.plots.embeddings import EMBEDDING, Embedding, read_embedding, write_embedding
from kdbench.analysis.plots.lines import losses_plot
from kdbench.analysis.plots.pictures import OF_PAIRS, SINGLE, Material
from kdbench.analysis.plots.predicted import reliability_plot
from kdbench.analysis.plots.standings import cost_plot
from kdbench.analysis.records import read_records
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.leaderboard import leaderboard
from kdbench.cli.plot import Name

NAMES = typing.get_args(Name)
PAIR = "resnet20-resnet8"


def embed_all(folders: list[Path]) -> None:
    """Write an embedding beside each record."""
    for number, folder in enumerate(folders):
        weights = json.loads((folder / "record.json").read_text())["weights"]
        points = np.random.default_rng(number).normal(size=(len(LABELS), 2)).astype(np.float32)
        write_embedding(folder, Embedding(points=points, labels=LABELS, num_classes=NUM_CLASSES, weights=weights))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "runs"
    folders = write_plotted_runs(folder)
    embed_all(folders)
    write_search(folder, {0: (60.0, 61.0, 62.0), 1: (63.0, 62.0, 61.0)}, method="ce", teacher=None)
    return folder


def test_the_command_knows_every_picture() -> None:
    assert sorted(NAMES) == sorted([*SINGLE, *OF_PAIRS])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ranks"])  # they need two pairs
def test_each_picture_is_a_file_for_a_paper(typed: Typed, runs: Path, name: str) -> None:
    for out in ("one", "two"):
        code, output, error = typed("plot", name, runs, "--out", out)
        assert (code, error) == (0, "")
    base = f"digits-demo-v1-{name}" + (f"-{PAIR}" if name in OF_PAIRS else "")
    assert output.split() == [f"two/{base}.svg", f"two/{base}.pdf"]
    svg, pdf = (Path("one", f"{base}.{form}").read_bytes() for form in ("svg", "pdf"))
    assert [svg, pdf] == [Path("two", f"{base}.{form}").read_bytes() for form in ("svg", "pdf")]
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf
    assert b"CreationDate" not in pdf
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert len(texts) > 3
    assert b"<dc:date>" not in svg
    width = float(root.attrib["width"].removesuffix("pt")) / 72
    assert 3 < width <= 5.6


def test_the_report_has_the_same_files(runs: Path, tmp_path: Path, typed: Typed) -> None:
    page = report(runs, tmp_path / "report")
    for name in ("classes", "correlation", "tsne"):
        typed("plot", name, runs)
        stem = f"digits-demo-v1-{name}-{PAIR}"
        for form in ("svg", "pdf"):
            made = (tmp_path / "plots" / f"{stem}.{form}").read_bytes()
            assert made == (tmp_path / "report" / "plots" / f"{stem}.{form}").read_bytes()
        assert f"plots/{stem}.svg" in page.values("href")
    assert len(page.values("id")) == len(set(page.values("id")))


def test_one_format_can_be_chosen(typed: Typed, runs: Path) -> None:
    assert typed("plot", "cost", runs, "--format", "pdf")[1].split() == ["plots/digits-demo-v1-cost.pdf"]
    assert [path.name for path in Path("plots").iterdir()] == ["digits-demo-v1-cost.pdf"]


@pytest.mark.parametrize(
    ("name", "file", "remedy"),
    [("classes", "predictions.npz", "grid run"), ("reliability", "predictions.npz", "grid run"),
     ("correlation", "predictions.npz", "grid run"), ("losses", "metrics.jsonl", "")],
)  # fmt: skip
def test_a_line_names_the_file_that_is_missing(typed: Typed, name: str, file: str, remedy: str) -> None:
    write_records(Path("runs"), plotted_records())
    code, output, error = typed("plot", name)
    assert (code, output) == (2, "")
    assert error.count("\n") == 1
    assert file in error
    assert remedy in error
    assert not list(Path("plots").iterdir())


def test_without_a_baseline_there_are_no_gains_by_class(typed: Typed) -> None:
    write_plotted_runs(Path("runs"), [record for record in plotted_records() if record["method"] == "kd"])
    code, _, error = typed("plot", "classes")
    assert (code, error.count("\n")) == (2, 1)
    assert "No gains by class on resnet20 > resnet8: there is no student-only baseline" in error


def test_data_are_for_tsne_only(typed: Typed, runs: Path) -> None:
    code, _, error = typed("plot", "cost", runs, "--data", "data")
    assert code == 2
    assert "kdbench plot tsne" in error


def test_tsne_runs_the_networks_once(typed: Typed, trained_runs: TrainedRuns, tmp_path: Path) -> None:
    shutil.copytree(trained_runs.runs, tmp_path / "runs")
    words = ("plot", "tsne", "runs", "--methods", "kd", "--data", f"npz:{trained_runs.npz}", "--device", "cpu")
    code, _, error = typed(*words[:5])
    assert (code, error.count("\n")) == (2, 1)
    assert "type --data npz:FILE" in error
    code, output, error = typed(*words)
    assert (code, error) == (0, "")
    folder = tmp_path / "runs" / trained_runs.cells["kd"].relative_to(trained_runs.runs)
    record = json.loads((folder / "record.json").read_text())
    embedding = read_embedding(folder, record["weights"])
    assert embedding is not None
    with np.load(trained_runs.npz) as arrays:
        assert np.isin(embedding.labels, arrays["test_labels"]).all()
        assert len(embedding.labels) == min(len(arrays["test_labels"]), 1000)
    svg = next(Path(path) for path in output.split() if path.endswith("resnet20-resnet8.svg"))
    assert "teacher resnet20" in svg.read_text()
    before = (folder / EMBEDDING).stat().st_mtime_ns
    assert typed(*words[:5])[0] == 0  # without the data: nothing is missing
    assert (folder / EMBEDDING).stat().st_mtime_ns == before


def test_other_data_than_a_network_was_trained_on_are_refused(
    typed: Typed, trained_runs: TrainedRuns, tmp_path: Path
) -> None:
    shutil.copytree(trained_runs.runs, tmp_path / "runs")
    with np.load(trained_runs.npz) as arrays:
        np.savez(tmp_path / "other.npz", **{key: arrays[key][::-1] for key in arrays})
    code, _, error = typed("plot", "tsne", "runs", "--methods", "kd", "--data", "npz:other.npz", "--device", "cpu")
    assert code == 2
    assert "is not the data that" in error
    assert error.count("\n") == 1


def test_each_network_takes_the_data_it_was_trained_on(
    typed: Typed, trained_runs: TrainedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two copies of a cell whose records name two data sets; where one is missing, a line says which."""
    monkeypatch.setattr("kdbench.analysis.plots.embeddings.embed", lambda features: features[:, :2])
    with np.load(trained_runs.npz) as arrays:
        np.savez(tmp_path / "other.npz", **{key: arrays[key][::-1] for key in arrays})
    cell = trained_runs.cells["kd"]
    shutil.copytree(cell, tmp_path / "runs" / "first" / cell.name)
    words = ("train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--epochs", "1")
    assert typed(*words, "--data", "npz:other.npz")[0] == 0
    tsne = ("plot", "tsne", "runs", "--device", "cpu")
    code, output, error = typed(*tsne, "--data", "npz:other.npz")
    assert (code, output.count(".svg")) == (0, 1)
    assert re.fullmatch(r"left out: .*other\.npz.* is not the data that .* was trained on: give those .*\n", error)
    code, output, error = typed(*tsne, "--data", "npz:other.npz", "--data", f"npz:{trained_runs.npz}")
    assert (code, error, output.count(".svg")) == (0, "", 2)


def test_tsne_runs_networks_of_ones_own(typed: Typed, tmp_path: Path) -> None:
    net = tmp_path / "own" / "networks" / "mine.py"
    net.parent.mkdir(parents=True)
    net.write_text(
        "from torch import nn\n\n\n"
        "class Mine(nn.Module):\n"
        "    STAGES = ('blocks',)\n\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
        "        self.classifier = nn.Linear(4, num_classes)\n\n"
        "    def forward(self, images):\n"
        "        return self.classifier(self.blocks(images).mean((2, 3)))\n"
    )
    own = ("--own", tmp_path / "own")
    words = ("--protocol", "digits-demo-v1", "--student", "mine", "--method", "ce", "--epochs", 1)
    code, _, error = typed(*own, "train", *words)
    assert (code, error) == (0, "")
    code, output, error = typed(*own, "plot", "tsne", "runs", "--device", "cpu")
    assert (code, error) == (0, "")
    assert ".svg" in output


def test_terms_of_the_loss_are_means_over_seeds(tmp_path: Path) -> None:
    for seed, factor in ((1, 1.0), (2, 3.0)):
        record = fake_record("kd", seed, 70.0)
        (path,) = write_records(tmp_path / str(seed), [record])
        lines = [{"epoch": e, "top1": 50.0, "loss/ce": factor / e, "loss/kd": 2.0 * factor} for e in (1, 2)]
        (path.parent / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    curve = read_curve(path.parent / "metrics.jsonl")
    assert curve is not None
    assert (curve.terms["ce"], curve.loss) == ((3.0, 1.5), (9.0, 7.5))
    records = read_records(tmp_path)
    (comparison,) = split(records)
    material = Material.of(comparison, records.frame)
    plot = losses_plot(comparison, comparison.pairs[0], material.curves, "x")
    assert plot is not None
    assert "kd ce 1.000, kd 4.000, total 5.000 (n = 2)" in plot.description
    (panel,) = plot.figure.axes
    assert [line.get_ydata().tolist() for line in panel.get_lines()] == [[2.0, 1.0], [4.0, 4.0], [6.0, 5.0]]  # type: ignore[union-attr]
    assert all(float(tick).is_integer() for tick in panel.get_xticks())  # there is no epoch 1.2


def test_the_legend_of_one_reliability_diagram_is_not_cut_off(tmp_path: Path) -> None:
    write_plotted_runs(tmp_path)
    records = read_records(tmp_path)
    (comparison,) = split(records)
    pair = comparison.pairs[0]
    answers = Material.of(comparison, records.frame).answers(pair)
    answers = dataclasses.replace(answers, teacher=None, by_row=dict(list(answers.by_row.items())[:1]))
    plot = reliability_plot(pair, answers, "x")
    assert plot is not None
    figure = plot.figure
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_labels_above_narrow_panels_keep_apart() -> None:
    assert narrow_label("teacher resnet14 (weights 25f43131)") == "teacher resnet14\n(weights 25f43131)"
    assert narrow_label("kd") == "kd"


def cost_texts(tmp_path: Path, **changes: object) -> tuple[str, str]:
    """Description of the plot of cost and its label, of a baseline and a method that trains 1800 s on two GPUs."""
    made = [fake_record("ce", 1, 70.0, teacher=None), fake_record("kd", 1, 72.0)]
    for record, seconds, devices in zip(made, (5400.0, 1800.0), (1, 2), strict=True):
        record["cost"] |= {"train_seconds": seconds, "devices": [devices]}
        record["environment"] |= {"device": "a GPU", "device_type": "cuda"}
    made[1]["environment"] |= changes
    write_records(tmp_path, made)
    (comparison,) = split(read_records(tmp_path))
    plot = cost_plot(leaderboard(comparison), "x")
    assert plot is not None
    return plot.description, plot.figure.axes[0].get_xlabel()


def test_cost_is_in_gpu_hours_of_all_devices(tmp_path: Path) -> None:
    description, label = cost_texts(tmp_path)
    assert re.search(r"kd 72.00 % \(n = 1\) at 1 GPU-hours", description)
    assert re.search(r"ce 70.00 % \(n = 1\) at 1.5 GPU-hours", description)
    assert label == "training of a run, GPU-hours"


def test_times_of_different_devices_are_not_compared(tmp_path: Path) -> None:
    assert cost_texts(tmp_path, device="another GPU")[1] == "views of each image per step"
