"""The HTML report without a browser: what is in it, that nothing in it acts, and that its plots are files."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from report_pages import Page, report
from report_runs import PAIRS, records, write_runs

from kdbench.analysis.plots.curves import CELLS_READ, Curve, band
from kdbench.analysis.plots.drawing import INK, RULE, label
from kdbench.analysis.plots.file_names import file_name
from kdbench.analysis.report.cells import CELLS_LISTED
from kdbench.analysis.report.markup import sort_value, table_html
from kdbench.analysis.tables.table import Entry, Table, words
from kdbench.experiment.protocol import load_protocol


def test_all_parts_are_there(made: tuple[Path, Path, Page]) -> None:
    page = made[2]
    for part in ("leaderboard", "paper", "differences", "cost", "ranks", "curves", "details", "classes", "cells"):
        assert f"c1-{part}" in page.values("id")
    assert len(page.data["cells"]) == 16
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 3 + 3 * len(PAIRS)
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
    assert len(before) == 2 + 2 * 9  # the page, the list of plots, and each plot as SVG and PDF


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
    assert "of 16 cells, none has a readable metrics.jsonl" in page.text
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
    assert {"digits-demo-v1-cost", "digits-demo-v1-with-epochs-3-cost"} <= names


@pytest.mark.usefixtures("quick")
def test_plots_keep_their_names_and_those_of_an_earlier_report_go(tmp_path: Path) -> None:
    """What the user put or changed there stays."""
    changed = load_protocol("digits-demo-v1").override(epochs=3)
    others = [fake_record(method, 1, 70.0, protocol=changed) for method in ("kd", "crd")]
    write_runs(tmp_path / "runs", records())
    report(tmp_path / "runs", tmp_path / "out")
    plots = tmp_path / "out" / "plots"
    before = {path.name for path in plots.iterdir()}
    folders = write_runs(tmp_path / "runs" / "others", others)
    report(tmp_path / "runs", tmp_path / "out")
    assert before < {path.name for path in plots.iterdir()}
    (plots / "digits-demo-v1-with-epochs-3-cost.svg").write_text("<svg>changed</svg>")
    (plots / "mine-with-epochs-3.pdf").write_text("mine")
    for folder in folders:
        shutil.rmtree(folder)
    report(tmp_path / "runs", tmp_path / "out")
    mine = {"digits-demo-v1-with-epochs-3-cost.svg", "mine-with-epochs-3.pdf"}
    assert {path.name for path in plots.iterdir()} == before | mine


@pytest.mark.usefixtures("quick")
def test_a_list_of_plots_that_names_other_files_deletes_none(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", records()[:8])
    report(tmp_path / "runs", tmp_path / "out")
    secret = tmp_path / "secret.pdf"
    secret.write_bytes(b"%PDF")
    digest = hashlib.sha256(b"%PDF").hexdigest()
    (tmp_path / "out" / "plots" / "link.pdf").symlink_to(secret)
    names = ["../../secret.pdf", str(secret), "link.pdf", "../index.html", ""]
    (tmp_path / "out" / ".plots.json").write_text(json.dumps(dict.fromkeys(names, digest)))
    report(tmp_path / "runs", tmp_path / "out")
    assert secret.exists()
    assert (tmp_path / "out" / "plots" / "link.pdf").is_symlink()


@pytest.mark.usefixtures("quick")
def test_many_seeds_are_listed_and_read_in_part(tmp_path: Path) -> None:
    many = CELLS_LISTED + 3
    assert many > CELLS_READ
    write_runs(tmp_path / "runs", [fake_record("kd", seed, 70.0 + seed / 10) for seed in range(1, many + 1)])
    page = report(tmp_path / "runs", tmp_path / "out")
    links = [target for target in page.values("href") if target.startswith("#cell/")]
    assert len(links) == CELLS_LISTED
    assert "and 3 more" in page.text
    assert "without 3 more cells" in page.text
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
def test_the_command(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records())
    code, out, err = typed("report", "runs", "--methods", "kd,crd", "--pairs", "resnet20>resnet8")
    assert (code, out, err) == (0, "report/index.html\n", "")
    text = (tmp_path / "report" / "index.html").read_text()
    assert "<code>kdbench report runs --methods kd,crd --pairs &#39;resnet20&gt;resnet8&#39;</code>" in text
    assert "reviewkd" not in text
    assert typed("report", "runs", "--methods", "nosuch")[0] == 2


@pytest.mark.usefixtures("quick")
def test_variants_of_a_method_are_not_counted_as_methods(tmp_path: Path) -> None:
    swept = [fake_record("kd", 1, 71.0, chosen={"temperature": value}) for value in (2.0, 8.0)]
    write_runs(tmp_path / "runs", [*swept, fake_record("dkd", 1, 72.0), fake_record("ce", 1, 70.0, teacher=None)])
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "4 records of 2 methods in 3 variants on 1 pair" in page.text
    assert "one of 2 variants of kd that were run" in page.text


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
    assert len({file_name(f"{'long ' * 40}{number}") for number in range(3)}) == 3
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
