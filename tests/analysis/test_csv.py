"""Tables as CSV: one head for all tables, with names of its own, that programs read without options."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from cells import Typed
from fake_records import fake_grid, fake_record, write_records
from test_tables import TABLE

from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.table import Entry, Table, words
from kdbench.experiment.protocol import load_protocol


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def test_each_row_has_its_table_and_a_column_a_number() -> None:
    frame = read(render([TABLE], "csv"))
    assert list(frame)[:6] == [
        "table",
        "group",
        "teacher > student",
        "t1 > s1: top-1 %",
        "t1 > s1: sd",
        "t1 > s1: mark",
    ]
    assert frame.to_numpy()[:, :6].tolist() == [
        ["A title", "logits", "kd", "74.92", "0.28", "best"],
        ["A title", "logits", "dkd", "73.50", "", "second"],
        ["A title", "features", "at", "", "", ""],
    ]
    assert set(frame["t1 > s1: note"]) == {"", "n = 2", "not run"}
    assert set(frame["notes"]) == {"first note; second note"}


def test_tables_of_different_columns_share_one_head() -> None:
    first = Table("first", (("pair", "n"),), (words("a", "1"), words("", "2")), ("a note",), grouped=True)
    second = Table("second", (("method", "n"),), (words("kd", "--"),))
    frame = read(render([first, second], "csv"))
    assert frame.to_dict("list") == {
        "table": ["first", "first", "second"],
        "pair": ["a", "a", ""],
        "n": ["1", "2", ""],
        "method": ["", "", "kd"],
        "notes": ["a note", "a note", ""],
    }


def test_columns_of_one_name_are_told_apart() -> None:
    table = Table("t", (("", "n", "n", "n"),), ((*words("kd"), *(Entry(str(k), {"x": str(k)}) for k in (1, 2, 3))),))
    assert list(read(render([table], "csv"))) == ["table", "group", "n", "n (2)", "n (3)", "notes"]


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "+cmd|x", "-x", "=\tx"])
def test_formulas_are_text(name: str) -> None:
    frame = read(render([Table(name, (("m", name),), (words(name, "-1.50"), words("--", "+2.00")), (name,))], "csv"))
    assert not [text for text in [*frame, *frame.to_numpy()[:, :2].flatten()] if text[:1] in "=@+-" and text]
    assert frame.to_numpy()[:, 2].tolist() == ["-1.50", "+2.00"]


@pytest.mark.parametrize(
    "words_of_command",
    [
        ["table", "runs"],
        ["table", "runs", "--layout", "paper", "--published", "cifar100"],
        ["table", "runs", "--layout", "paper", "--epoch", "best"],
        ["leaderboard", "runs", "--epoch", "best"],
        ["compare", "runs", "--pairwise"],
        ["claims", "runs"],
        ["table", "--published", "cifar100"],
    ],
)
def test_every_table_is_read_by_pandas(words_of_command: list[str], typed: Typed, tmp_path: Path) -> None:
    pairs = ["wrn_40_2>wrn_16_2", "resnet56>resnet20"]
    rules = load_protocol("cifar100-crd-v1")
    records = [*fake_grid(pairs, {"kd": 1.0, "dkd": 2.0, "crd": 1.5}, 3)]
    records.append(
        fake_record("at", 1, 73.0, protocol=rules, teacher="wrn_40_2", student="wrn_16_2", teacher_id="cell:wrn_40_2")
    )
    write_records(tmp_path / "runs", records)
    code, out, _ = typed(*words_of_command, "--format", "csv")
    assert code == 0
    frame = read(out)
    assert not [name for name in frame if name.startswith("Unnamed") or not name.strip("#")]
    assert next(iter(frame)) == "table"
    assert "" not in set(frame["table"])
    assert not frame.isin(["--", "NA", "?", "nan"]).to_numpy().any()
    numbers = [name for name in frame if name.endswith(("top-1 %", ": mean"))]
    assert numbers
    for name in numbers:
        pd.to_numeric(frame[name])
