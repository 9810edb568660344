"""``kdbench bench`` on image files: what the loader leaves of the device's speed."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cells import Typed
from digit_files import NAME, RULES, register, write_digits

from kdbench.cli import bench_table
from kdbench.data.decoding.streamed import StreamedImages
from kdbench.engine import bench_methods, loading
from kdbench.engine.bench_methods import Row


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    return write_digits(tmp_path / "digits")


def test_methods_are_timed_on_files_beside_noise(digits: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live and cached; the processes end with each, and hours are those from files."""
    closed: list[StreamedImages] = []
    end = StreamedImages.close

    def close(images: StreamedImages) -> None:
        closed.append(images)
        end(images)

    monkeypatch.setattr(StreamedImages, "close", close)
    words = ["bench", "resnet14>resnet8", "--protocol", NAME, "--data", f"folder:{digits}", "--workers", "1"]
    code, out, err = typed(*words, "--rounds", "1", "--device", "cpu", "--method", "ce", "--method", "kd")
    assert (code, err) == (0, "")
    heads = re.search(r"^method +teacher outputs +images/s +from files +x student only ", out, flags=re.MULTILINE)
    assert heads
    rows = re.findall(r"^(ce|kd) +(--|live|cache) +\d+ +\d+ +[\d.]+ ", out, flags=re.MULTILINE)
    assert rows == [("ce", "--"), ("kd", "live"), ("kd", "cache")]
    assert re.search(r"from files: with their loader, which alone gives \d+ images/s; where that is the lower", out)
    assert "of 40 random images" in out
    assert len(closed) == 4, "three rows, and the loader alone"


def test_hours_are_those_from_files(digits: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_methods, "steady_seconds", lambda *_: 1200.0)
    words = ["bench", "resnet14>resnet8", "--protocol", NAME, "--data", f"folder:{digits}", "--workers", "0"]
    code, out, err = typed(*words, "--rounds", "1", "--device", "cpu", "--method", "ce", "--format", "csv")
    assert (code, err) == (0, "")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["h/cell"] == f"{1200 * 3 * 2 / 3600:.2f}"
    assert row["from files"] == "0"


def test_steps_are_timed_in_a_row_once_what_was_made_ahead_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves with the steps; two groups a step, six batches ahead."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1

    batches = SimpleNamespace(
        schedule=SimpleNamespace(num_groups=2),
        data=SimpleNamespace(device=SimpleNamespace(type="cpu"), images=SimpleNamespace(close=lambda: None)),
    )
    monkeypatch.setattr(loading.time, "perf_counter", lambda: float(done))
    assert loading.steady_seconds(step, batches, 3, 7) == 1.0  # type: ignore[arg-type]
    assert done == 3 + 2 + 7


@pytest.mark.parametrize(("pool", "views"), [("", 0), ("pool = 3\n", 40 * 3)])
def test_the_views_of_a_cache_are_not_gone_through(
    pool: str, views: int, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet has 10^8 in a grid: without a pool none is seen twice, and with one a cache has all of them."""
    register(monkeypatch, RULES.replace("flip = false\n", f"flip = false\n{pool}"))
    monkeypatch.setattr(bench_table, "visited", lambda *_: pytest.fail("it is not counted"))
    words = ["bench", "resnet14>resnet8", "--protocol", NAME, "--data", f"folder:{write_digits(tmp_path)}"]
    code, out, err = typed(*words, "--workers", "0", "--rounds", "1", "--device", "cpu", "--method", "kd")
    assert (code, err) == (0, "")
    assert f"h to build the cache ({views} views)" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--data", "folder:digits"],
            "protocol cifar100-crd-v1 decodes no images while it trains: leave --data",
        ),
        (["--protocol", NAME, "--workers", "2"], "--workers is of no use without --data"),
        (["--protocol", NAME, "--data", "folder:digits", "--workers", "-1"], "--workers must be "),
        (["--protocol", NAME, "--data", "folder:nowhere"], "nowhere"),
        (["--protocol", "imagenet-crd-v1", "--data", "digits"], "imagenet"),
        (["--protocol", NAME], f"protocol {NAME} is for images of your own: name them with --data"),
    ],
)
def test_what_cannot_be_timed_is_one_line(words: list[str], text: str, digits: Path, typed: Typed) -> None:
    code, out, err = typed("bench", "resnet14>resnet8", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_recorded_steps_have_no_shares(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a recorded step is timed whole: its parts, timed as usual, would not add up."""
    measure = bench_methods.measure

    def whole(*arguments: Any) -> tuple[list[Row], float]:
        rows, teacher = measure(*arguments)
        return [dataclasses.replace(row, parts=None) for row in rows], teacher

    monkeypatch.setattr(bench_methods, "measure", whole)
    words = ["bench", "resnet14>resnet8", "--protocol", "digits-demo-v1", "--rounds", "1", "--device", "cpu"]
    code, out, err = typed(*words, "--method", "kd", "--format", "markdown")
    assert (code, err) == (0, "")
    assert re.search(
        r"^\| method +\| +teacher outputs \| +images/s \| +x student only \| +h/cell \|$", out, re.MULTILINE
    )
    assert ", each a CUDA graph without parts to time" in out
