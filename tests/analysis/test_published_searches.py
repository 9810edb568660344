"""Searches in published folders, on the page of several, in the report, and as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from searched_runs import write_compared, write_search

from kdbench.analysis.plots.drawing import Plot, styled
from kdbench.analysis.plots.pictures import Material, draw_pairs
from kdbench.analysis.publishing.folder import flaws
from kdbench.analysis.publishing.making import publish
from kdbench.analysis.publishing.site import write_site
from kdbench.analysis.records import read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.searches import searches_of
from kdbench.analysis.selection import Filters, select
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.searches import searches_tables, trials_tables
from kdbench.errors import UserError

CE = {0: (60.0, 60.0, 60.0), 1: (64.0, 61.0, 62.0)}


def searched(runs: Path) -> Path:
    """Runs of two searches with what they chose; returns the folder of the first."""
    folder = write_search(runs)
    write_search(runs, CE, method="ce", teacher=None)
    for method, trial in (("ce", 0), ("ce", 1), ("kd", 0), ("kd", 2)):
        write_compared(runs, method, trial)
    return folder


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(folder: Path) -> list[str]:
    return [row.label for comparison in split(read_records(folder)) for row in comparison.rows]


def test_published_searches_are_those_of_the_runs(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    searched(runs)
    published = publish(runs, out, "us")
    assert (published.searches, published.left_out) == (2, [])
    assert labels(out) == labels(runs) == ["ce", "ce (tuned per pair)", "kd", "kd (tuned per pair)"]
    tables = [
        render(searches_tables(searches_of(read_records(folder))), "csv").replace(", 1 failed", "")
        for folder in (runs, out)
    ]
    assert tables[0] == tables[1]
    assert "## Searches of settings" in (out / "README.md").read_text()
    before = contents(out)
    publish(runs, out, None)
    assert contents(out) == before


def test_a_search_that_was_changed_or_added_is_a_flaw(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    folder = searched(runs)
    publish(runs, out, "us")
    place = out / "records" / folder.relative_to(runs)
    (place / "16-trials-chosen.json").write_text("{}")
    assert [*flaws(out)] == [f"{place / '16-trials-chosen.json'} is not listed in published.json"]
    (place / "16-trials-chosen.json").unlink()
    edited(place / "5-trials-chosen.json", settings={"temperature": 9.0})
    (flaw,) = flaws(out)
    assert "5-trials-chosen.json was changed after it was published" in flaw


def test_published_points_and_choices_of_more_trials_stay(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    folder = searched(runs)
    study, chosen = (json.loads((folder / name).read_text()) for name in ("study.json", "5-trials-chosen.json"))
    more = study["points"] + [{"settings": {"temperature": 9.0}, "multiples": {}}]
    edited(folder / "study.json", points=more, used_on=[["cell:other", "resnet8"]])
    (folder / "6-trials-chosen.json").write_text(json.dumps(chosen))
    publish(runs, out, "us")
    (folder / "study.json").write_text(json.dumps(study, indent=2))
    (folder / "6-trials-chosen.json").unlink()
    (folder / "5-trials-chosen.json").unlink()  # fewer files than are published
    before = contents(out)
    publish(runs, out, None)
    place = out / "records" / folder.relative_to(runs)
    after = json.loads((place / "study.json").read_text())
    assert (after["points"], after["used_on"]) == (more, [["cell:abcdef0123", "resnet8"], ["cell:other", "resnet8"]])
    assert {name for name in before if "trials" in name} == {name for name in contents(out) if "trials" in name}
    assert [*flaws(out)] == []

    edited(folder / "study.json", fixed={"standardize": True})
    published = publish(runs, out, None)
    assert len(published.left_out) == 1
    assert published.left_out[0].endswith("another one of this name is published")


def test_a_damaged_search_is_left_out_with_a_line(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = searched(runs)
    for damage in ("[]", "{", '{"ranking": 3}', "\udcff"):
        (folder / "5-trials-best.json").write_text(damage, errors="surrogateescape")
        published = publish(runs, tmp_path / f"out{len(damage)}{damage == '{'}", "us")
        assert published.searches == 1
        assert len(published.left_out) == 1
        assert published.left_out[0].startswith(f"the search in {folder} is left out: it ")


def test_the_page_of_published_folders_shows_each_search_once(tmp_path: Path) -> None:
    searched(tmp_path / "runs")
    publish(tmp_path / "runs", tmp_path / "a", "<b>us")
    publish(tmp_path / "runs", tmp_path / "b", "them")
    page = write_site([tmp_path / "a", tmp_path / "b"], tmp_path / "site").read_text()
    section = page[page.index('id="searches"') : page.index('id="published"')]
    assert section.count("temperature=3.0") == 1
    assert "kd (tuned per pair)" in page


def test_the_report_has_a_section_of_searches(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    edited(searched(runs) / "study.json", rule="<script>alert(1)</script>")
    records = read_records(runs)
    page, *plots = write_report(runs, tmp_path / "report", split(records), records)
    text = page.read_text()
    section = text[text.index('id="c1-searches"') : text.index('id="c1-cost"')]
    assert "temperature=3.0" in section
    assert "failed: diverged" in section
    assert "<script>alert" not in text
    assert "not finished</dt><dd>none" in text  # a failed trial was ranked last
    assert any("best-of-n" in plot.name for plot in plots)


def test_the_curves_are_the_expected_best(tmp_path: Path) -> None:
    searched(tmp_path)
    records = read_records(tmp_path)
    (comparison,) = split(records)
    with styled():
        ((_, plot),) = draw_pairs(["best-of-n"], Material.of(comparison, records.frame), "x")
        assert isinstance(plot, Plot)
        lines = {len(line.get_xdata()): list(line.get_ydata()) for line in plot.figure.axes[0].lines}
    assert lines[2] == [62.0, 64.0]  # ce
    scores = sorted((60.0, 64.0, 63.0, 62.0, 0.0))  # kd
    assert lines[5][0] == pytest.approx(sum(scores) / 5)
    assert lines[5][3] == pytest.approx((63.0 + 4 * 64.0) / 5)
    assert lines[5][4] == 64.0
    (only_kd,), _ = select([comparison], Filters(methods=["kd"]))
    assert {each.study.method for each in only_kd.searches} == {"ce", "kd"}  # the baseline stays
    assert "kd 49.80 of 1, 64.00 of 5" in plot.description


def test_without_a_search_there_is_no_section_and_no_curve(tmp_path: Path) -> None:
    write_compared(tmp_path, "ce", 0)
    write_compared(tmp_path, "kd", 0)
    records = read_records(tmp_path)
    (comparison,) = split(records)
    ((_, reason),) = draw_pairs(["best-of-n"], Material.of(comparison, records.frame), "x")
    assert isinstance(reason, str)
    assert "[search]" in reason


def test_tables_of_searches_are_escaped(tmp_path: Path) -> None:
    folder = write_search(tmp_path)
    edited(folder / "study.json", pair="a_b & <c>%", rule="x_y")
    searches = searches_of(read_records(tmp_path))
    latex = render([*searches_tables(searches), *trials_tables(searches)], "latex")
    assert r"a\_b \& " in latex
    assert r"x\_y" in latex
    assert "&lt;c" in render(searches_tables(searches), "markdown")


def test_a_damaged_published_search_is_an_error(tmp_path: Path) -> None:
    from kdbench.analysis.publishing.searches import studies_in

    with pytest.raises(UserError, match="published is damaged"):
        studies_in({"records/p/searches/x/study.json": b"{}"})
