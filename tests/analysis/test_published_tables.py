"""Published values as tables: a printed one in full, and ours with theirs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from cells import Typed
from fake_records import fake_grid, fake_record, write_records
from test_comparison import split
from test_layouts import column

from kdbench.analysis.published.printed import printed_table
from kdbench.analysis.published.tables import published_tables, with_published
from kdbench.analysis.published.values import load_published
from kdbench.analysis.tables.layouts import paper
from kdbench.analysis.tables.table import Entry

PAIR = "wrn_40_2 wrn_16_2"
with (Path(__file__).parent.parent / "data" / "pckd_table.csv").open(encoding="utf-8") as file:
    HEAD, *PRINTED = csv.reader(file)


def test_the_printed_table_is_reproduced_with_arrows_and_marks() -> None:
    """24 rows x 7 pairs: each number, NA, the arrow to KD, PCKD's row in bold."""
    table = printed_table(load_published("cifar100"), "pckd")
    assert [f"{teacher}>{student}" for teacher, student in zip(*table.heads, strict=True)][1:] == HEAD[1:]
    assert [row[0].text for row in table.rows] == [row[0] for row in PRINTED]
    base = next(row for row in PRINTED if row[0] == "KD")
    assert (len(PRINTED), len(HEAD)) == (24, 8)
    for line, printed in zip(table.rows, PRINTED, strict=True):
        for entry, value, reference in zip(line[1:], printed[1:], base[1:], strict=True):
            if value == "NA" or printed[0] in {"Teacher", "Student", "KD"}:
                assert entry.text == value
                continue
            gap = round(float(value) - float(reference), 2)
            assert entry.text == f"{value} {'↑' if gap > 0 else '↓'}{abs(gap):.2f}"
        assert {entry.mark == "best" for entry in line[1:]} == {printed[0] == "PCKD"}


def test_the_second_of_a_printed_column_is_underlined_and_ties_share_it() -> None:
    table = printed_table(load_published("cifar100"), "pckd")
    seconds = [{row[0].text for row in table.rows if row[place].mark == "second"} for place in range(1, 8)]
    for place, found in enumerate(seconds, 1):
        values = {row[0]: float(row[place]) for row in PRINTED[2:] if row[place] != "NA"}
        best = max(values.values())
        runner_up = max(value for value in values.values() if value < best)
        assert found == {name for name, value in values.items() if value == runner_up}
    assert seconds[2] == {"MLD", "ReKD"}


def test_a_contested_value_is_marked_wherever_it_is_shown_and_what_rests_on_it() -> None:
    pair, published = "resnet56>resnet20", load_published("cifar100")
    (contested,) = set(published.select(["KD"], ["crd"], [pair]).frame["contested"])
    assert "about 71.4 on average" in contested
    table = printed_table(published, "pckd")
    marked = [(row[0].text, place) for row in table.rows for place, entry in enumerate(row) if contested in entry.notes]
    assert marked == [("KD", HEAD.index(pair))]
    rests = f"the differences of {pair} are to a contested value"
    assert rests in table.notes
    assert rests not in printed_table(published, "pckd", baseline="CRD").notes
    (found,) = split(*fake_grid([pair, "vgg13>vgg8"], {"kd": -30.0, "crd": -20.0}, 3))
    for beside in (True, False):
        ours = with_published(paper(found), found, published, beside=beside)
        assert list(ours.footnotes).count(contested) == 1
    under = published_tables(published.select(["KD", "CRD"], ["crd"]))[0]
    assert [entry.notes for entry in column(under, "resnet56 resnet20").values()].count((contested,)) == 1


def test_the_command_prints_it(typed: Typed) -> None:
    code, out, _ = typed("table", "--published", "cifar100", "--source", "pckd", "--format", "csv")
    assert code == 0
    head, *rows = csv.reader(io.StringIO(out))
    places = [number for number, name in enumerate(head) if name.endswith(": top-1 %")]
    assert [[row[1], *(row[place] or "NA" for place in places)] for row in rows] == PRINTED
    code, out, _ = typed("table", "--published", "cifar100", "--source", "pckd", "--baseline", "crd")
    assert code == 0
    assert "76.97 ↑1.49" in out
    code, out, err = typed("table", "--published", "cifar100", "--source", "pckd", "--baseline", "nothing")
    assert (code, out) == (2, "")
    assert "the printed table has no row 'nothing'" in err


def test_values_of_many_sources_keep_disagreements_and_differing_rules_apart() -> None:
    values = load_published("cifar100").select(
        methods=["dkd", "fitnet", "mlld"], pairs=["resnet110>resnet20", "vgg13>vgg8"]
    )
    under, *apart = published_tables(values)
    assert under.title == "Published under cifar100-crd-v1"
    dkd = column(under, "resnet110 resnet20")["DKD"]
    assert dkd.text == "71.06"
    assert dkd.notes == ("printed by lskd; also 71.73 (pckd), 70.91 (ldrld-notes)",)
    assert column(under, "resnet110 resnet20")["Teacher"].text == "74.31"
    titles = {table.title for table in apart}
    assert "Published by sskd, not comparable" in titles
    (sskd,) = [table for table in apart if "sskd" in table.title]
    assert column(sskd, "vgg13 vgg8")["Teacher"].text == "75.38"
    assert not {row[1].text for row in under.rows} & {"MLLD"}
    assert all(entry.mark == "" for table in (under, *apart) for row in table.rows for entry in row)


def test_ours_and_theirs_are_never_ranked_together() -> None:
    pairs = ["wrn_40_2>wrn_16_2", "vgg13>vgg8"]
    (found,) = split(*fake_grid(pairs, {"kd": -30.0, "crd": -20.0}, 3))
    ours = paper(found, marks="all")
    for beside in (True, False):
        table = with_published(ours, found, load_published("cifar100"), beside=beside)
        marked = {row[1].text: row[2].mark for row in table.rows[: len(ours.rows)]}
        assert marked == {"Teacher": "", "Student": "", "kd": "second", "crd": "best"}
        assert any("never ranked or tested with ours" in note for note in table.notes)
    entries = column(with_published(ours, found, load_published("cifar100"), beside=True), PAIR)
    assert entries["kd"].text.endswith(" [74.92 ± 0.28]")
    assert entries["kd"].numbers["published top-1 %"] == "74.92"
    assert entries["Student"].text.endswith(" [73.26]")
    block = with_published(ours, found, load_published("cifar100"), beside=False).rows[len(ours.rows) :]
    assert [row[0].text for row in block] == ["published", "", ""]
    assert {row[1].text: row[2] for row in block}["crd"] == Entry("75.48 ± 0.09", {"top-1 %": "75.48", "sd": "0.09"})


@pytest.mark.parametrize("beside", [True, False])
def test_what_other_sources_print_is_a_note_beside_ours_too(beside: bool) -> None:
    (found,) = split(*fake_grid(["resnet110>resnet20"], {"dkd": 1.0}, 3))
    ours = paper(found)
    table = with_published(ours, found, load_published("cifar100"), beside=beside)
    (dkd,) = [row[2] for row in table.rows[0 if beside else len(ours.rows) :] if row[1].text == "dkd"]
    assert dkd.text.endswith("71.06]" if beside else "71.06")
    assert dkd.notes[-1] == "printed by lskd; also 71.73 (pckd), 70.91 (ldrld-notes)"


def test_published_values_stand_only_beside_their_own_rules(typed: Typed, tmp_path: Path) -> None:
    write_records(tmp_path / "runs", [fake_record("kd", seed, 70.0) for seed in range(2)])
    code, out, err = typed("table", "runs", "--layout", "paper", "--published", "cifar100")
    assert (code, out) == (2, "")
    assert "digits-demo-v1 trains on digits: published values of cifar100 are not comparable with it" in err
    code, _, err = typed("table", "runs", "--published", "cifar100")
    assert code == 2
    assert "add --layout paper" in err
    code, _, err = typed("table", "runs", "--source", "crd")
    assert code == 2
    assert "add --published DATASET" in err
    rules = next(fake_grid(["vgg13>vgg8"], {}, 1))["config"]["protocol"]["name"]
    assert rules == "cifar100-crd-v1"


def test_shortened_training_has_no_published_values() -> None:
    from kdbench.experiment.protocol import load_protocol

    short = load_protocol("cifar100-crd-v1").override(epochs=30)
    (found,) = split(*fake_grid(["vgg13>vgg8"], {"kd": 1.0}, 2, protocol=short))
    table = with_published(paper(found), found, load_published("cifar100"), beside=True)
    assert "no published values: no source uses these training rules" in table.notes
    assert not any("[" in entry.text for row in table.rows for entry in row)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--published", "cifar1000"], "unknown data set 'cifar1000': did you mean cifar100"),
        (["--published", "cifar100", "--source", "crdd"], "unknown source 'crdd': did you mean crd"),
        (["--published", "cifar100", "--methods", "nothing"], "unknown published method 'nothing'"),
        (["--published", "imagenet", "--methods", "fsp"], "no values are published for this combination"),
    ],
)
def test_unknown_names_are_one_line(words: list[str], told: str, typed: Typed) -> None:
    code, out, err = typed("table", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
