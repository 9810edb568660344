"""Tables that papers print: two of 13 pairs, readable in a text column, with captions, labels, families and names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from pdf_type import UNCOMPRESSED, type_sizes
from test_comparison import split

from kdbench.analysis.tables.entries import accuracy, with_difference
from kdbench.analysis.tables.layouts import paper
from kdbench.analysis.tables.pages import split_pairs, split_rows
from kdbench.analysis.tables.parts import parts, with_minus_signs
from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.experiment.pairs import named_pairs
from kdbench.experiment.protocol import load_protocol

RULES = load_protocol("cifar100-crd-v1")
PAIRS = [pair for name in ("crd-same-family", "crd-different-family") for pair in named_pairs()[name].pairs]
FAMILIES = {"kd": "logits", "reviewkd": "features", "crd": "contrast"}


def records() -> list[dict[str, Any]]:
    """Two seeds of three methods and the student alone on CRD's 13 pairs; each has 70.00 ± 0.71 at least."""
    students = dict.fromkeys(pair.student for pair in PAIRS)
    made = [
        fake_record("ce", seed, 70.0 + seed, student=each, teacher=None, protocol=RULES)
        for each in students
        for seed in (1, 2)
    ]
    for pair in PAIRS:
        teacher = {"teacher": pair.teacher.network, "teacher_id": f"cell:{pair.teacher.network}"}
        for method, family in FAMILIES.items():
            made += [
                fake_record(method, seed, 72.0 + seed, student=pair.student, family=family, protocol=RULES, **teacher)
                for seed in (1, 2)
            ]
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    write_records(folder, records())
    return folder


def wide(num_pairs: int) -> Table:
    heads = (("", "teacher", *("t" * num_pairs)), ("", "student", *map(str, range(num_pairs))))
    rows = tuple((*words("logits", name), *(Entry(str(n), notes=(f"note {n}",)) for n in range(num_pairs)))
                 for name in ("kd", "dkd"))  # fmt: skip
    return Table("wide", heads, rows, ("a note",), num_labels=2, grouped=True)


@pytest.mark.parametrize(
    ("num_pairs", "sizes"), [(7, [7]), (8, [4, 4]), (11, [6, 5]), (13, [7, 6]), (14, [7, 7]), (15, [5, 5, 5])]
)
def test_pairs_are_split_into_as_few_tables_as_fit(num_pairs: int, sizes: list[int]) -> None:
    tables = split_pairs(wide(num_pairs), 7)
    assert [len(table.heads[0]) - 2 for table in tables] == sizes
    assert [name for table in tables for name in table.heads[1][2:]] == [str(n) for n in range(num_pairs)]
    assert all(table.rows[0][:2] == words("logits", "kd") for table in tables)
    assert tables[-1].notes == ("a note",)
    assert len({table.title for table in tables}) == len(tables)
    assert list(tables[-1].footnotes) == [f"note {n}" for n in range(num_pairs - sizes[-1], num_pairs)]


def test_without_a_limit_a_table_stays_as_it_is() -> None:
    assert split_pairs(wide(13), None) == [wide(13)]


def long(*sizes: int, note: str = "a note") -> Table:
    places = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    rows = tuple(words(f"g{group}" if row == 0 else "", f"m{group}-{row}") for group, row in places)
    return Table("long", (("", "method"),), rows, (note,), 2, grouped=True, label="tab:l")


@pytest.mark.parametrize(
    ("sizes", "lines_per_row", "expected"),
    [
        ((20, 20), 1, [40]),
        ((20, 20), 2, [20, 20]),
        ((30, 10, 30), 1, [40, 30]),
        ((100,), 1, [44, 44, 12]),
        ((1, 50), 1, [1, 44, 6]),
    ],
)
def test_long_tables_are_split_between_groups(sizes: tuple[int, ...], lines_per_row: int, expected: list[int]) -> None:
    table = long(*sizes)
    pages = split_rows(table, lines_per_row)
    assert [len(page.rows) for page in pages] == expected
    assert [row[1] for page in pages for row in page.rows] == [row[1] for row in table.rows]
    assert all(page.rows[0][0].text for page in pages)
    assert [page.label for page in pages] == ["tab:l", *[""] * (len(pages) - 1)]
    assert [page.notes for page in pages][-1] == ("a note",)
    assert all("continued" in page.title for page in pages[1:])


def test_many_notes_move_to_the_next_page_with_the_last_group() -> None:
    pages = split_rows(long(10, 10, 10, note="word " * 400), 1)
    assert [len(page.rows) for page in pages] == [20, 10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("75.64", ("75.64", "", "", "")),
        ("75.64 ± 0.28 ↑1.66", ("75.64", "± 0.28", "↑1.66", "")),
        ("75.64† ± 0.28 ↓1.66 [75.48 ± 0.3]", ("75.64†", "± 0.28", "↓1.66", "[75.48 ± 0.3]")),
        ("75.64 ± 0.28 0.00", ("75.64", "± 0.28", "0.00", "")),
        ("+7.80 [+5.62, +9.98]", ("+7.80", "", "", "[+5.62, +9.98]")),
        ("a ± b ± c", ("a ± b ± c", "", "", "")),
        (MISSING, (MISSING, "", "", "")),
        ("", ("", "", "", "")),
    ],
)
def test_an_entry_is_taken_apart(text: str, expected: tuple[str, ...]) -> None:
    assert parts(text) == expected
    assert " ".join(filter(None, parts(text))) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.34 [-0.46, -0.23]", "−0.34 [−0.46, −0.23]"),
        ("x=-5", "x=−5"),
        ("WRN-40-2, crd-v1, 2020-01", "WRN-40-2, crd-v1, 2020-01"),
        ("--", "--"),
    ],
)
def test_only_signs_of_numbers_become_minus_signs(text: str, expected: str) -> None:
    assert with_minus_signs(text) == expected


def test_numbers_stand_below_each_other_in_the_terminal() -> None:
    entries = [
        with_difference(accuracy({1: 9.0, 2: 9.8}), 0.0),
        with_difference(accuracy({1: 75.0, 2: 95.0}), 12.5),
        Entry("80.00", mark="best", notes=("n = 1",)),
    ]
    table = Table("t", (("method", "x"),), tuple((*words(f"m{n}"), entry) for n, entry in enumerate(entries)))
    lines = [line for line in render([table], "terminal").splitlines() if re.match(r"m\d", line)]
    points = [[match.start() for match in re.finditer(r"\.", line)] for line in lines]
    assert points[0] == points[1]
    assert points[2] == points[1][:1]
    assert lines[2].split() == ["m2", "*80.00*", "(a)"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize(
    "words",
    [
        ["--caption", "Same family, 5 % & more", "--caption", "Different_family", "--label", "tab:a", "--label", "b"],
        ["--published", "cifar100", "--beside", "--label", "tab:a", "--label", "b", "--label", "c"],
    ],
    ids=["two tables", "published values in brackets"],
)
def test_thirteen_pairs_are_tables_without_type_below_seven_points(
    words: list[str], runs: Path, tmp_path: Path, typed: Typed
) -> None:
    """In the 345 pt of an article of LaTeX, less than any venue's text is wide."""
    code, out, err = typed("table", runs, "--layout", "paper", "--format", "latex", *words)
    assert (code, err) == (0, "")
    (tmp_path / "tables.tex").write_text(out, encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        rf"{UNCOMPRESSED}\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}"
        "Tables \\ref{tab:a} and \\ref{b}.\n\\input{tables}\n\\end{document}"
    )
    for _ in range(2):
        ran = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
    log = ran.stdout.decode(errors="replace")
    assert ran.returncode == 0, log[-2000:]
    assert "Overfull" not in log
    assert "undefined" not in log
    assert "too large" not in log
    assert min(type_sizes((tmp_path / "paper.pdf").read_bytes())) >= 6.99


@pytest.mark.parametrize(
    ("command", "words", "text"),
    [
        ("table", ["--layout", "paper", "--caption", " "], "--caption needs a text"),
        ("table", ["--layout", "paper", "--label", "tab:a"], "add --format latex"),
        ("leaderboard", ["--format", "latex", "--label", "}"], "'}' is no label"),
        ("leaderboard", ["--format", "latex", "--label", "a", "--label", "a"], "each table needs one of its own"),
        ("leaderboard", ["--caption", "a", "--caption", "b"], "given 2 times for 1 table: cifar100-crd-v1"),
        ("compare", ["--caption", "a"], "given 1 time for 2 tables"),
        ("table", ["--per-table", "3"], "--per-table needs the paper layout"),
        ("leaderboard", ["--families", "logit"], "unknown family 'logit': did you mean logits"),
        ("leaderboard", ["--without-families", "x"], "the families are none, logits, features, contrast"),
        ("table", ["--families", "relations"], "no record is of a method of relations: the families are none, logits,"),
        ("leaderboard", ["--families", "logits", "--methods", "crd"], "no row is left"),
        ("compare", ["--families", "contrast", "--without-families", "contrast"], "no row is left"),
        ("leaderboard", ["--format", "latex", "--caption", "n ≥ 3 and ≥ 4"], "fonts of LaTeX have no ≥: write it"),
        ("table", ["--pairs", "crd-cross-family"], "did you mean crd-same-family or crd-different-family"),
    ],
)
def test_mistakes_are_one_line(command: str, words: list[str], text: str, runs: Path, typed: Typed) -> None:
    code, out, err = typed(command, runs, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert text in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--families", "logit"], "unknown family 'logit': did you mean logits"),
        (["--without-families", "x"], "unknown family 'x': the families are none, logits, features"),
        (["--pairs", "crd-same-famly"], "did you mean crd-same-family"),
    ],
)
def test_mistakes_about_published_values_are_one_line(words: list[str], text: str, typed: Typed) -> None:
    code, out, err = typed("table", "--published", "cifar100", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert text in err


def test_a_family_without_records_can_be_left_out(runs: Path, typed: Typed) -> None:
    assert typed("leaderboard", runs, "--without-families", "relations") == typed("leaderboard", runs)


def test_pairs_that_a_set_lacks_are_named(runs: Path, typed: Typed) -> None:
    code, _, err = typed("leaderboard", runs, "--pairs", "dist", "--pairs", "lskd-different-family")
    assert (code, err) == (
        0,
        "no record is of these pairs of lskd-different-family: resnet32x4>wrn_16_2, resnet32x4>wrn_40_2, "
        "wrn_40_2>resnet8x4, wrn_40_2>MobileNetV2\n",
    )


def test_a_caption_is_one_line(runs: Path, typed: Typed) -> None:
    _, out, _ = typed("leaderboard", runs, "--format", "markdown", "--caption", "Two\n\n lines")
    assert out.startswith("**Two lines**\n")


def test_captions_stand_in_place_of_titles_in_every_form(runs: Path, typed: Typed) -> None:
    for form, caption in {"terminal": "A & B", "markdown": "A &amp; B", "csv": "A & B", "latex": r"A \& B"}.items():
        words = ["--pairs", "vgg13>vgg8", "--format", form]
        code, out, _ = typed("leaderboard", runs, *words, "--caption", "A & B")
        assert code == 0
        assert caption in out
        assert "cifar100-crd-v1" not in out


@pytest.mark.parametrize("command", ["table --layout paper", "leaderboard", "compare"])
def test_families_are_kept_or_left_out_but_for_the_baseline(command: str, runs: Path, typed: Typed) -> None:
    name, *words = command.split()
    pairs = ["--pairs", "crd-same-family"]
    _, kept, _ = typed(name, runs, *words, *pairs, "--families", "logits,contrast")
    _, without, _ = typed(name, runs, *words, *pairs, "--without-families", "features")
    assert kept == without
    assert "crd " in kept
    assert "reviewkd" not in kept
    assert "Student" in kept or "ce" in kept.split()


def test_published_rows_follow_the_families(runs: Path, typed: Typed) -> None:
    words = ["--layout", "paper", "--published", "cifar100", "--source", "ttm", "--families", "logits"]
    code, out, _ = typed("table", runs, *words)
    assert code == 0
    published = out[out.index("published") :]
    assert "WTTM" in published
    assert typed("table", runs, *[word.replace("logits", "Logits") for word in words])[1] == out
    assert "ITRD" not in re.findall(r"\S+", published)
    _, alone, _ = typed("table", "--published", "cifar100", "--source", "ttm", "--without-families", "logits")
    assert "ITRD" in alone
    assert "WTTM " not in alone


def test_a_paper_table_has_no_columns_but_pairs() -> None:
    (comparison,) = split(*records())
    assert len(paper(comparison).columns) == 2 + len(PAIRS)
