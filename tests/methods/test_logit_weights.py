"""The weight of the logit terms that the file beside a method says, against the method's settings and its loss."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from cells import METHODS
from fake_records import fake_record, write_records
from own_files import install
from random_outputs import built, outputs, random_logits
from stub_nets import stub_batch, terms_of

from kdbench.cli.method_page import method_page
from kdbench.config import BASE, deciding
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.logit_weights import CONSTANT, USUAL, LogitWeight, logit_weights, names_in, read_logit_weight
from kdbench.experiment.registry import load_method
from kdbench.net import Outputs


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_it_by_numbers_among_its_settings(name: str) -> None:
    weight, config = logit_weights([name])[name], load_method(name).Config
    hints = get_type_hints(config)
    named = {part for term in weight.factors for part in names_in(term)}
    assert all(hints[key] in {float, int} for key in named - {CONSTANT, BASE})
    assert ("kd_weight" in named) == ("kd_weight" in {field.name for field in dataclasses.fields(config)})
    assert weight.total(deciding(config())) is not None


TEMPERATURES = {"mlld": (4.0, 3.0, 5.0, 2.0, 6.0), "ctkd": (1 + 20 / (1 + math.exp(-1)),)}
"""At which a method compares logits where it is not at 4 alone; CTKD's is 1 + 20 sigmoid(1) before it is trained."""


@pytest.mark.parametrize(
    ("name", "setting", "terms"),
    [
        ("kd", "kd_weight", {"kd"}),
        ("ctkd", "kd_weight", {"kd"}),
        ("dist", "kd_weight", {"kd"}),
        ("at", "kd_weight", {"kd"}),
        ("sskd", "kd_weight", {"kd"}),
        ("pckd", "delta", {"kd"}),
        ("mlld", "kd_weight", {"plain", "strong"}),
    ],
)
def test_a_factor_is_what_a_setting_weighs_the_mean_kl_with(name: str, setting: str, terms: set[str]) -> None:
    """All views have the same logits here, and the KL is computed from its definition."""
    weight, method = logit_weights([name])[name], built(load_method(name), **{setting: 2.5})
    views = method.views(method.config).num_views
    sides = [outputs(owner, 6 * views, seed=number) for number, owner in enumerate(("student", "teacher"))]
    logits = {
        owner: random_logits(number, classes=10)[0].float() for number, owner in enumerate(("student", "teacher"))
    }
    student, teacher = (
        outputs_with(owner, side, each.repeat(views, 1))
        for (owner, each), side in zip(logits.items(), sides, strict=True)
    )
    loss = terms_of(method.loss(student, teacher, stub_batch(torch.arange(6))))
    divergences = []
    for temperature in TEMPERATURES.get(name, (4.0,)):
        theirs, ours = ((each.logits[:6].double() / temperature).log_softmax(dim=1) for each in (teacher, student))
        divergences.append(temperature**2 * (theirs.exp() * (theirs - ours)).sum(dim=1).mean())
    share = float(sum(loss[term].detach().double() for term in terms) / torch.stack(divergences).mean() / 2.5)
    low, high = weight.factors[setting]
    assert low - 1e-4 <= share <= high + 1e-4
    assert high - low < 1e-9 or low < share < high


def test_perturbed_teachers_that_are_the_teacher_weigh_as_one() -> None:
    """Without noise, TeKAP is KD at its total weight."""
    weight, method = logit_weights(["tekap"])["tekap"], built(load_method("tekap"), noise_share=0.0)
    sides = [random_logits(number, classes=10)[0].float() for number in range(2)]
    student, teacher = (Outputs(owner, logits=each) for owner, each in zip(("student", "teacher"), sides, strict=True))
    terms = terms_of(method.loss(student, teacher, stub_batch(torch.arange(6))))
    loss = terms["kd"] + terms["perturbed"]
    ours, theirs = ((each.double() / 4).log_softmax(dim=1) for each in sides)
    kl = 16 * (theirs.exp() * (theirs - ours)).sum(dim=1).mean()
    assert weight.total(dataclasses.asdict(method.config)) == pytest.approx([float(loss / kl)] * 2, rel=1e-5)


def outputs_with(owner: str, other: Outputs, logits: torch.Tensor) -> Outputs:
    """Outputs that have other logits."""
    parts = {part: getattr(other, part) for part in ("penultimate", "stages", "preact", "weight", "bias")}
    return Outputs(owner, logits=logits, **parts)


def test_a_sum_of_settings_and_its_range() -> None:
    weight = LogitWeight({"a": (1, 1), "b": (0, 2), CONSTANT: (0.5, 0.5)}, "")
    assert weight.total({"a": 3, "b": 2, "c": "x"}) == (3.5, 7.5)
    assert weight.formula == "a + 0 to 2 b + 0.5"
    assert weight.total({"a": 3}) is weight.total({"a": 3, "b": "2"}) is None  # as of another version of the method
    product = LogitWeight({"a": (1, 1), "a * b*c": (1, 2)}, "")
    assert product.total({"a": 3, "b": 0.5, "c": 4}) == (9, 15)
    assert product.formula == "a + 1 to 2 a * b*c"
    assert LogitWeight({}, "").total({}) == (0, 0)
    assert LogitWeight({}, "").formula == "0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logit_weight = 3", "needs settings with their factors"),
        ("[logit_weight]\nnote = 3", "needs settings with their factors"),
        ('[logit_weight]\na = "b"', "a must be a factor, or a list of the lowest and the highest, not 'b'"),
        ("[logit_weight]\na = [1]", "a must be a factor"),
        ("[logit_weight]\na = [1, 2, 3]", "a must be a factor"),
        ("[logit_weight]\na = [2, 1]", "a must be a list of the lowest and the highest"),
        ("[logit_weight]\na = nan", "a must be a factor"),
        ("[logit_weight", r"is damaged|cannot be read|not TOML|is no TOML|line 1"),
    ],
)
def test_what_is_no_sum_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_logit_weight(tmp_path / "mine.toml")
    assert str(tmp_path / "mine.toml") in str(raised.value)


def notes_of(folder: Path, *methods: tuple[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What both layouts' notes say of the logit terms of methods with settings, in a process without torch."""
    records = [fake_record(method, 1, 75.0, settings=settings) for method, settings in methods]
    write_records(folder / "runs", [*records, fake_record("ce", 1, 70.0, teacher=None)])
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom kdbench.analysis.records import read_records\n"
        "from kdbench.analysis.splitting import split\nfrom kdbench.analysis.tables.layouts import detail, paper\n"
        "(comparison,) = split(read_records(Path(sys.argv[1])))\n"
        "tables = {'paper': paper(comparison), 'detail': detail(comparison, comparison.pairs[0])}\n"
        "notes = {name: [note for note in table.notes if 'logit' in note or 'these weights' in note]\n"
        "    for name, table in tables.items()}\n"
        "print(json.dumps(notes))\n"
        "assert not {'torch', 'kd_of_others'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "runs")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    notes: dict[str, list[str]] = json.loads(done.stdout)
    return notes


def test_tables_say_it_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of pairs name the rows of more than twice kd's weight alone; the table of one pair has all."""
    own, site = tmp_path / "own", tmp_path / "site"
    own.mkdir()
    (own / "mine.toml").write_text("[logit_weight]\nmy_weight = [0.5, 1.5]\n")
    (own / "broken.toml").write_text("[logit_weight]\nmy_weight = 'x'\n")
    for name in ("mine", "broken"):
        (own / f"{name}.py").touch()
    monkeypatch.setenv(own_folders.METHODS, str(own))
    site.mkdir()
    install(site, "kd_of_others", "theirs")
    (site / "kd_of_others" / "theirs.toml").write_text("[logit_weight]\ntheir_weight = 5\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    methods = {
        "kd": {"kd_weight": 0.9},
        "dkd": {"alpha": 1.0, "beta": 8.0},
        "crd": {"kd_weight": 1.8},
        "at": {"kd_weight": 0.0},
        "mine": {"my_weight": 2.0},
        "broken": {"my_weight": 2.0},
        "theirs": {"their_weight": 1.0},
        "../../other": {},
        "nkd": {"gamma": 1.5},  # of a version without kd_weight
        "ctkd": {"kd_weight": 0.5},
    }
    notes = notes_of(tmp_path, *methods.items())
    unit, unknown = "total weight of the logit terms, in units of the batch mean of T^2 KL", "../../other, broken, nkd"
    heavy = f"unknown for {unknown}; 9 for dkd; 5 for theirs; 1 to 3 for mine"
    assert notes["paper"][0] == (
        f"{unit}, where it is or may be more than twice that of plain KD (0.9): {heavy}; "
        "plain KD, too, may gain from such a weight"
    )
    assert notes["detail"][0] == f"{unit}: {heavy}; 1.8 for crd; 0.9 for kd; 0.5 for ctkd; 0 for the others"
    assert notes["paper"][1].startswith("about these weights: dkd: TCKD and NCKD, ")
    assert "ctkd" not in notes["paper"][1]
    assert "ctkd: the temperature is learnt; dkd: TCKD" in notes["detail"][1]


def test_where_all_heavy_weights_are_unknown_nothing_is_said_of_kd(tmp_path: Path) -> None:
    (note,) = notes_of(tmp_path, ("nkd", {"gamma": 1.5}))["paper"][:1]
    assert note.endswith("(0.9): unknown for nkd")


def test_nothing_is_said_where_no_method_has_a_logit_term(tmp_path: Path) -> None:
    assert notes_of(tmp_path, ("at", {"kd_weight": 0.0})) == {"paper": [], "detail": []}


def test_the_usual_weight_is_that_of_kd() -> None:
    assert logit_weights(["kd"])["kd"].total(dataclasses.asdict(load_method("kd").Config())) == (USUAL, USUAL)


def test_the_page_of_a_method_says_it() -> None:
    page = " ".join(method_page("dkd").split())
    assert "Logit terms: total weight alpha + beta, by default 9, in units of the batch mean of T^2 KL; TCKD" in page
    assert "Logit terms: total weight that of the base, by default 0.9, in" in " ".join(method_page("dot").split())
