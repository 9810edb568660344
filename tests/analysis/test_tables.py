"""One table, four renderings: equal numbers, nothing that a user's words can break."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from tabulate import tabulate

from kdbench.analysis.tables.render import Format, render
from kdbench.analysis.tables.table import Entry, Table, words

HOSTILE = r"a|b <script>alert(1)</script> _x_ *y* `z` [l](u) $m$ 10% & # {~^} \input{/etc/passwd} naïve ∫"
TABLE = Table(
    "A title",
    (("", "teacher", "t1", "t1"), ("", "student", "s1", "s2")),
    (
        (*words("logits", "kd"), Entry("74.92 ± 0.28 ↑1.34", {"top-1 %": "74.92", "sd": "0.28"}, "best"), Entry("--")),
        (
            *words("", "dkd"),
            Entry("73.5", {"top-1 %": "73.50"}, "second", ("n = 2",)),
            Entry("70.1", {"top-1 %": "70.1"}),
        ),
        (
            *words("features", "at"),
            Entry("--", notes=("not run",)),
            Entry("70.2 ↓0.1", {"top-1 %": "70.2"}, "", ("n = 2",)),
        ),
    ),
    ("first note", "second note"),
    num_labels=2,
    grouped=True,
)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


@pytest.mark.parametrize("form", get_args(Format))
def test_all_renderings_have_the_same_numbers_and_notes(form: Format) -> None:
    text = render([TABLE], form)
    shown = {"csv": {"74.92", "0.28", "73.50", "70.1", "70.2"}}
    assert numbers(text.replace("0.1pt", "")) == shown.get(
        form, {"74.92", "0.28", "1.34", "73.5", "70.1", "70.2", "0.1"}
    )
    for line in ("A title", "first note", "second note", "n = 2", "not run"):
        assert line.lower() in text.lower()


def test_marks_arrows_and_footnotes() -> None:
    assert "*74.92 ± 0.28 ↑1.34*" in render([TABLE], "terminal")
    assert re.search(r"_73\.5_ +\(a\)", render([TABLE], "terminal"))
    assert "(a) n = 2\n(b) not run\n" in render([TABLE], "terminal")
    assert "**74.92 ± 0.28 ↑1.34**" in render([TABLE], "markdown")
    assert "<u>73.5</u> (a)" in render([TABLE], "markdown")
    latex = render([TABLE], "latex")
    assert r"\textbf{74.92 {\scriptsize $\pm$ 0.28} {\scriptsize $\uparrow$1.34}}" in latex
    assert r"\underline{73.5}\textsuperscript{a}" in latex
    assert r"\multicolumn{2}{c}{t1}" in latex
    assert latex.count("\\midrule") == 2


@pytest.mark.parametrize(
    ("note", "line"),
    [
        ("the teacher is one network", "The teacher is one network."),
        ("top-1 in percent", "Top-1 in percent."),
        ("teachers: a", "Teachers: a."),
        ("wrn_16_2 > resnet8: weak", r"wrn\_16\_2 $>$ resnet8: weak."),
        ("vgg13 > b: weak", r"vgg13 $>$ b: weak."),
        ("tiny > small: weak", r"tiny $>$ small: weak."),
        ("dkd temperature=2: 20 trials", "dkd temperature=2: 20 trials."),
        ("at has its default settings", "at has its default settings."),
        ("n = 2", "n = 2."),
    ],
)
def test_notes_in_latex_are_sentences_that_keep_names(note: str, line: str) -> None:
    assert line in render([replace(TABLE, notes=(note,))], "latex").splitlines()


def test_words_of_users_are_words_in_markdown() -> None:
    text = render([Table(HOSTILE, (("method", "x"),), ((*words(HOSTILE), Entry("1")),), (HOSTILE,))], "markdown")
    assert "<script" not in text
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert r"\*y\*" in text
    assert r"\`z\`" in text
    assert r"\_x\_" in text
    assert r"[l\](u)" in text
    assert html.unescape("&lt;script>") in html.unescape(text)


def test_names_with_underscores_stay_readable_in_markdown() -> None:
    assert "wrn_40_2" in render([Table("t", (("wrn_40_2",),), (words("resnet8"),))], "markdown")


def test_latex_escapes_every_special_character() -> None:
    text = render(
        [Table(HOSTILE, (("method", HOSTILE),), ((*words(HOSTILE), Entry(HOSTILE, notes=(HOSTILE,))),))], "latex"
    )
    assert r"\input{/etc" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"\$m\$ 10\% \& \# \{\textasciitilde{}\textasciicircum{}\}" in text
    assert "∫" not in text
    assert "naïve" in text


@pytest.mark.parametrize("name", ["[l", "[2pt] x", "*", "* x"])
def test_no_row_of_latex_begins_with_what_a_command_above_it_reads(name: str) -> None:
    """LaTeX reads a bracket or a star after the end of a row, or after a rule, as an option of it."""
    table = Table("t", ((name, "n"),), (words(name, "1"), words(name, "2")), num_labels=1, grouped=True)
    lines = render([table], "latex").splitlines()
    assert not [line for line in lines if line.startswith(("[", "*"))]
    assert sum(line.startswith("{}" + name[0]) for line in lines) == 3


@pytest.mark.parametrize("form", get_args(Format))
def test_control_characters_of_records_reach_no_output(form: Format) -> None:
    name = "a\x1b]0;title\x07b\rc\x9bd\nnext | line\u202e\ud800"
    text = render(
        [Table(name, ((name, name),), ((*words(name), Entry(name, {}, "", (name,))),), (name,), num_labels=1)], form
    )
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert text.encode()
    assert not [line for line in text.splitlines() if line.startswith("next")]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("use", ["alone", "part of a paper"])
def test_latex_compiles(use: str, tmp_path: Path) -> None:
    wide = Table(
        "wide", (("method", *(f"column {n}" for n in range(30))),), (words(*("75.12 ± 0.34" for _ in range(31))),)
    )
    hostile = Table(
        HOSTILE, (("method", HOSTILE),), ((*words(HOSTILE), Entry(HOSTILE, {}, "best", (HOSTILE,))),), (HOSTILE,)
    )
    options = Table("t", (("[x]", "*"),), tuple(words(text, "1") for text in ("[l", "[2pt] l", "*", "l")), grouped=True)
    (tmp_path / "tables.tex").write_text(render([TABLE, wide, hostile, options], "latex"), encoding="utf-8")
    name = "tables.tex"
    if use != "alone":
        name = "paper.tex"
        (tmp_path / name).write_text(
            "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}\\begin{document}before\n"
            "\\input{tables}\nafter\\end{document}"
        )
    ran = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name], cwd=tmp_path, capture_output=True, check=False
    )
    log = ran.stdout.decode(errors="replace")
    assert ran.returncode == 0, log[-2000:]
    assert "Overfull \\hbox" not in log
    assert "incomplete" not in log
    assert (tmp_path / name.replace("tex", "pdf")).stat().st_size > 10_000


def test_the_markdown_is_what_tabulate_makes() -> None:
    table = Table("t", (("method", "n"),), ((*words("kd"), Entry("3")),))
    expected = tabulate([["kd", "3"]], headers=["method", "n"], tablefmt="pipe", colalign=["left", "right"])
    assert expected in render([table], "markdown")


def test_several_tables_are_one_text() -> None:
    both = render([TABLE, TABLE], "terminal")
    assert both.count("A title") == 2
    assert render([TABLE, TABLE], "latex").count("kdbenchend\\endcsname") == 1
