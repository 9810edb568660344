"""The HTML report without a browser: what is in it, that nothing in it acts, and that its plots are files."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from markupsafe import Markup
from report_runs import EPOCHS, PAIRS, line, records, write_runs

from kdbench.analysis.records import read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.report.cells import CELLS_LISTED
from kdbench.analysis.report.curves import CELLS_READ, Curve, band, read_curve
from kdbench.analysis.report.drawing import INK, RULE, DrawnPlot, Plot, label
from kdbench.analysis.report.markup import sort_value, table_html
from kdbench.analysis.report.sections import file_name
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.table import Entry, Table, words
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><b>$x_1^2$",
    "]]>{{ 7 * 7 }}\x07&amp;",
)


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.text = text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            self.scripts.append(data)

    def shape(self) -> list[tuple[str, list[str]]]:
        """Tags with the names of their attributes; what plots are made of depends on the length of texts."""
        drawn = {"svg", "title", "desc", "g", "text", "path", "use", "defs", "clippath", "rect"}
        return [(tag, sorted(own)) for tag, own in self.tags if tag not in drawn]

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def report(runs: Path, out: Path) -> Page:
    read = read_records(runs)
    paths = write_report(runs, out, split(read), read)
    assert paths[0] == out / "index.html"
    assert all(path.exists() for path in paths)
    return Page(paths[0].read_text(encoding="utf-8"))


def undrawn(plot: Plot) -> DrawnPlot:
    """A plot that was never drawn, which takes most of the time."""
    return DrawnPlot(plot.name, plot.title, Markup("<svg></svg>"), "<svg/>", b"%PDF")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.analysis.report.sections.draw", undrawn)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Page]:
    """Folders of runs and of their report, and its page."""
    folder = tmp_path_factory.mktemp("report")
    write_runs(folder / "runs", records())
    return folder / "runs", folder / "out", report(folder / "runs", folder / "out")


def test_all_parts_are_there(made: tuple[Path, Path, Page]) -> None:
    page = made[2]
    for part in ("leaderboard", "paper", "differences", "cost", "ranks", "curves", "details", "cells"):
        assert f"c1-{part}" in page.values("id")
    assert len(page.data["cells"]) == 16
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 3 + 2 * len(PAIRS)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(picture["aria-labelledby"].split()) <= set(ids)
    for target in page.values("href"):
        assert not target.startswith("#") or target.startswith("#cell/") or target[1:] in ids
    assert "reviewkd 73.25" in page.text  # the description of a curve


def test_every_head_of_a_table_has_a_scope_and_each_table_a_caption(made: tuple[Path, Path, Page]) -> None:
    page = made[2]
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {"col", "row", "rowgroup"}
    count = {name: sum(tag == name for tag, _ in page.tags) for name in ("table", "caption")}
    assert count["table"] == count["caption"] == 7


def test_equal_records_give_equal_bytes(made: tuple[Path, Path, Page], tmp_path: Path) -> None:
    runs, out, _ = made
    report(runs, tmp_path)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert before == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 1 + 2 * 7


def test_plots_are_files_for_a_paper(made: tuple[Path, Path, Page]) -> None:
    plots = made[1] / "plots"
    assert {path.stem for path in plots.glob("*.svg")} == {path.stem for path in plots.glob("*.pdf")}
    for path in plots.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root[0].tag.endswith("title")
        assert root[0].text
        assert any(element.tag.endswith("}text") for element in root.iter())
    for path in plots.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content
        assert b"/CIDFontType2" in content
        assert b"CreationDate" not in content


def test_the_page_follows_the_theme(made: tuple[Path, Path, Page]) -> None:
    drawn = re.findall(r"<svg.*?</svg>", made[2].text, flags=re.DOTALL)
    for picture in drawn:
        assert "currentColor" in picture
        assert not {INK, RULE} & set(re.findall(r"#[0-9a-f]{6}", picture))
        assert "DejaVu" not in picture


def test_nothing_is_fetched(made: tuple[Path, Path, Page]) -> None:
    page = made[2]
    assert not page.values("src")
    assert not re.search(r"@import|url\((?!#)", page.text)
    assert all(name.startswith("xmlns") or name == "content" or not value.startswith(("http:", "https:", "//"))
               for _, attributes in page.tags for name, value in attributes.items())  # fmt: skip
    (policy,) = (own["content"] for tag, own in page.tags if own.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def hostile_records(texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Records in which each text stands wherever a user can write one."""
    student, teacher, family, setting = texts
    made = [fake_record("ce", seed, 70.0 + seed, teacher=None, student=student) for seed in (1, 2)]
    for method in texts:
        for seed in (1, 2):
            chosen = {setting: setting} if method == student else {}
            made.append(
                fake_record(
                    method, seed, 71.0 + seed, student=student, teacher=teacher, family=family, chosen=chosen,
                    settings_source=family, loss={setting: 1.0},
                )
            )  # fmt: skip
            made[-1]["environment"]["device"] = setting
    return made


def test_texts_of_users_do_not_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for name, texts in (("runs", HOSTILE), ("plain", ("z0", "z1", "z2", "z3"))):
        folders = write_runs(tmp_path / name, hostile_records(texts))
        (folders[0] / "metrics.jsonl").write_text("damaged")
        pages.append(report(tmp_path / name, tmp_path / f"{name}-out"))
        monkeypatch.setattr("kdbench.analysis.report.sections.draw", undrawn)
    page, plain = pages
    # The same tags and attributes as with harmless names: no text became markup.
    assert page.shape() == plain.shape()
    assert not any(name.startswith("on") for _, own in page.tags for name in own)
    assert "{{ 7 * 7 }}" in page.text
    titles = {cell[0] for cell in page.data["cells"].values()}
    for text in HOSTILE[1:]:
        assert f"{text}, {HOSTILE[1]} > {HOSTILE[0]}, seed 2" in titles
    for path in (tmp_path / "runs-out" / "plots").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.(svg|pdf)", path.name)
        if path.suffix == ".svg":
            root = ElementTree.fromstring(path.read_text())
            assert not any(element.tag.endswith(("script", "img", "}b")) for element in root.iter())


@pytest.mark.usefixtures("quick")
def test_a_damaged_line_is_left_out_and_named(tmp_path: Path) -> None:
    folders = write_runs(tmp_path / "runs", records())
    path = folders[2] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], '{"epoch": 5, "top1": 7', *lines[5:-1], "[]", lines[-1][:20]]))
    curve = read_curve(path)
    assert curve is not None
    assert curve.damaged == (5, 12, 13)
    assert curve.epochs == (1, 2, 3, 4, *range(6, EPOCHS))
    assert curve.loss[1] == pytest.approx(2.0)
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "3 lines are damaged and left out (5, 12, 13)" in page.text
    assert str(path) in page.text


@pytest.mark.parametrize(
    "text", ['{"epoch": 1, "top1": NaN}', '{"epoch": 0, "top1": 1}', '{"top1": 1}', "null", '{"epoch": 1, "top1": "x"}']
)
def test_a_line_without_an_epoch_and_an_accuracy_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").write_text(text)
    assert read_curve(tmp_path / "m") == Curve((), (), (), (1,))


def test_an_epoch_written_twice_counts_once(tmp_path: Path) -> None:
    first, second = (line({"top1": top1}, 3) for top1 in (50.0, 60.0))
    (tmp_path / "m").write_text(f"{json.dumps(first)}\n\n{json.dumps(second)}\n")
    curve = read_curve(tmp_path / "m")
    assert curve is not None
    assert curve.top1 == (second["top1"],)


def test_the_band_of_seeds() -> None:
    curves = [Curve((1, 2, 3), (10.0, 20.0, 30.0), (1.0, math.nan, 3.0)), Curve((1, 3), (20.0, 50.0), (3.0, 5.0))]
    found = band(curves, "top1")
    assert found is not None
    assert (found.epochs, found.mean, found.low, found.high) == ((1, 3), (15.0, 40.0), (10.0, 30.0), (20.0, 50.0))
    assert band(curves, "loss").mean == (2.0, 4.0)  # type: ignore[union-attr]
    assert band([Curve((1,), (1.0,), (math.nan,))], "loss") is None
    assert band([Curve((1,), (1.0,), (1.0,)), Curve((2,), (1.0,), (1.0,))], "top1") is None


@pytest.mark.usefixtures("quick")
def test_without_metrics_the_page_says_so(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", records(), metrics=False)
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "none of the 16 cells has a readable metrics.jsonl" in page.text
    assert not list((tmp_path / "out" / "plots").glob("*top1*"))


@pytest.mark.usefixtures("quick")
def test_one_pair_has_no_ranks_and_the_page_says_why(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", records()[:8])
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "No critical-difference diagram" in page.text
    assert "Here are 4 methods and 1 pair." in page.text


@pytest.mark.usefixtures("quick")
def test_each_comparison_has_a_section_and_files_of_its_own(tmp_path: Path) -> None:
    changed = load_protocol("digits-demo-v1").override(epochs=3)
    others = [fake_record(method, 1, 70.0, protocol=changed) for method in ("kd", "crd")]
    write_runs(tmp_path / "runs", [*records(), *others])
    page = report(tmp_path / "runs", tmp_path / "out")
    assert {"c1-leaderboard", "c2-leaderboard"} <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))
    assert {cell[1] for cell in page.data["cells"].values()} == {"c1", "c2"}
    names = {path.stem for path in (tmp_path / "out" / "plots").glob("*.svg")}
    assert {"digits-demo-v1-1-cost", "digits-demo-v1-2-cost"} <= names


@pytest.mark.usefixtures("quick")
def test_many_seeds_are_listed_and_read_in_part(tmp_path: Path) -> None:
    many = CELLS_LISTED + 3
    assert many > CELLS_READ
    write_runs(tmp_path / "runs", [fake_record("kd", seed, 70.0 + seed / 10) for seed in range(1, many + 1)])
    page = report(tmp_path / "runs", tmp_path / "out")
    links = [target for target in page.values("href") if target.startswith("#cell/")]
    assert len(links) == CELLS_LISTED
    assert "and 3 more" in page.text
    assert "3 more cells are left out" in page.text
    assert [seed for _, seed in page.data["more"]["c1-0-1"]] == [11, 12, 13]
    assert len(page.data["cells"]) == many
    assert sum(cell[7] is not None for cell in page.data["cells"].values()) == CELLS_READ


def test_cells_share_what_is_equal(made: tuple[Path, Path, Page]) -> None:
    data = made[2].data
    one, other = (cell for cell in data["cells"].values() if cell[0].startswith("kd, resnet20"))
    assert one[3] == other[3]
    config, environment = (data["pool"][number] for number in one[3][:2])
    assert config["student"] == "resnet8"
    assert "seed" not in config
    assert environment["device"] == "a device"
    labels = dict(zip((name for _, name in data["pool"][one[4]]), one[5], strict=True))
    assert labels["top-1 after the last epoch, %"] == 71.6


@pytest.mark.usefixtures("quick")
def test_unfinished_and_damaged_cells_are_named(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records())
    (tmp_path / "runs" / "0" / "record.json").write_text("{")
    begun = tmp_path / "runs" / "begun"
    begun.mkdir()
    config = (
        'student = "resnet8"\nseed = 9\nid = "1"\nprotocol = {}\nteacher = {}\nmethod = {name = "kd", version = 1}\n'
    )
    (begun / "config.toml").write_text(config)
    code, out, err = typed("report", "runs", "--out", "here")
    assert code == 2
    assert out == "here/index.html\n"
    assert "record.json is left out" in err
    page = (tmp_path / "here" / "index.html").read_text()
    assert "1 file is damaged and left out" in page
    assert "runs/0/record.json is left out" in page
    assert "1 cell has started but not finished" in page
    assert "runs/begun: not finished" in page


@pytest.mark.usefixtures("quick")
def test_the_command(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records())
    code, out, err = typed("report", "runs", "--methods", "kd,crd", "--pairs", "resnet20>resnet8")
    assert (code, out, err) == (0, "report/index.html\n", "")
    text = (tmp_path / "report" / "index.html").read_text()
    assert "<code>kdbench report runs --methods kd,crd --pairs &#39;resnet20&gt;resnet8&#39;</code>" in text
    assert "reviewkd" not in text
    assert typed("report", "runs", "--methods", "nosuch")[0] == 2


def test_a_folder_without_records(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = typed("report", "empty")
    assert code == 2
    assert err.startswith("kdbench: no finished cells in empty")
    assert err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_out_is_a_file(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records()[:4])
    (tmp_path / "taken").write_text("mine")
    assert typed("report", "runs", "--out", "taken") == (
        2, "", "kdbench: taken is a file: choose another folder with --out DIR\n"
    )  # fmt: skip
    assert (tmp_path / "taken").read_text() == "mine"
    code, _, err = typed("report", "runs", "--out", "taken/below")
    assert code == 2
    assert re.fullmatch(r"kdbench: cannot write taken/below: .*: choose another folder with --out DIR\n", err)


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path / "runs", records()[:4])
    (tmp_path / "index.html").write_text("earlier")
    read = read_records(tmp_path / "runs")

    def fail(plot: object) -> None:
        raise OSError

    monkeypatch.setattr("kdbench.analysis.report.sections.draw", fail)
    with pytest.raises(OSError):  # noqa: PT011
        write_report(tmp_path / "runs", tmp_path, split(read), read)
    assert (tmp_path / "index.html").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "runs"]


@pytest.mark.usefixtures("quick")
def test_a_record_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    folders = write_runs(tmp_path / "runs", records()[:4])
    read = read_records(tmp_path / "runs")
    found = split(read)
    (folders[1] / "record.json").unlink()
    write_report(tmp_path / "runs", tmp_path / "out", found, read)
    assert "1/record.json changed while the report was written" in (tmp_path / "out" / "index.html").read_text()


def test_a_table_as_html() -> None:
    table = Table(
        "a & b",
        (("", "teacher", "t<1>", ""), ("", "student", "s", "views")),
        (
            (*words("logits", "kd"), Entry("70.1 ± 0.2", mark="best"), Entry("1")),
            (*words("", "dkd"), Entry("--", notes=("not run",)), Entry("1")),
            (*words("features", "fit"), Entry("69.0", mark="second"), Entry("1")),
        ),
        ("a note",),
        num_labels=2,
        grouped=True,
    )
    text = table_html(table, "t")
    assert "a &amp; b" in text
    assert "t&lt;1&gt;" in text
    assert '<th scope="rowgroup" rowspan="2">logits</th>' in text
    assert '<strong>70.1 ± 0.2</strong><span class="heard"> (best)</span>' in text
    assert '<a href="#t-a" aria-label="footnote a">a</a>' in text
    assert '<li id="t-a"><span class="letter">a</span> not run</li>' in text
    assert text.count("<tbody>") == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("70.1 ± 0.2", 70.1), ("+1.5 [1, 2]", 1.5), ("-0.2", -0.2), ("<0.001", 0.000999), ("1.2k", 1200), ("3/0/1", 3),
     ("--", None), ("", None), ("1.0M", 1e6), ("58.1†", 58.1)],
)  # fmt: skip
def test_what_places_are_sorted_by(text: str, value: float | None) -> None:
    assert sort_value(text) == (value if value is None else pytest.approx(value))


def test_names_of_files_and_labels() -> None:
    assert file_name("wrn_40_2 > wrn_16_2") == "wrn_40_2-wrn_16_2"
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("日本") == "x"
    assert label("a\nb") == "a�b"
    assert len(label("x" * 99)) == 40


def test_an_unknown_font_or_an_underscore_is_no_warning(tmp_path: Path) -> None:
    write_records(
        tmp_path / "runs", [fake_record(name, seed, 70.0 + seed) for name in ("_日本", "kd") for seed in (1, 2)]
    )
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "_日本" in page.text


def test_the_command_does_not_import_torch(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", records()[:4], metrics=False)
    code = (
        "import sys\nfrom kdbench import cli\nsys.argv = ['kdbench', 'report', 'runs']\n"
        "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_out_that_cannot_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(tmp_path, tmp_path / "file" / "out", [], read_records(tmp_path))
