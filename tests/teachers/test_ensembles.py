"""Ensembles as teachers: the mean of their members' logits, from the caches of the members where there are some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Typed
from digit_files import NAME, register, write_digits
from torch import Tensor

from kdbench.data.batches import Batches
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import Pair, TeacherSpec
from kdbench.experiment.protocol import load_protocol
from kdbench.method import PLAIN
from kdbench.net import LOGITS
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.outputs import LiveTeacher
from kdbench.teachers.sources import EnsembleSource

NAMES = ("resnet8", "resnet14")


@pytest.fixture(scope="module")
def runs(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        opened(tiny_npz, folder).train_teacher(name)
    return folder


def opened(npz: Path, runs: Path) -> Session:
    return Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=2, runs=runs, device="cpu")


def cell(session: Session, method: str = "kd", teacher: str = "resnet14+resnet8", seed: int = 1) -> Cell:
    return session.cell(method=method, student="resnet8", teacher=teacher, seed=seed)


def test_its_identity_is_the_list_of_its_members_ids(tiny_npz: Path, runs: Path) -> None:
    session = opened(tiny_npz, runs)
    members = {card.network: card for card in (session.teachers.find(TeacherSpec(name), name) for name in NAMES)}
    ours = cell(session)
    assert ours.teacher == TeacherRef("resnet14+resnet8", f"{members['resnet14'].id}+{members['resnet8'].id}")
    specs = [f"resnet8@{members['resnet8'].short}", "ResNet-14"]
    for words in (specs, specs[::-1], ["resnet8", "resnet14"]):
        assert cell(session, teacher=" + ".join(words)).id == ours.id
    assert str(Pair.parse("a@1+b>c").teacher) == "a@1+b"
    assert TeacherSpec.parse(ours.teacher.spec).members == (
        TeacherSpec("resnet14", members["resnet14"].short),
        TeacherSpec("resnet8", members["resnet8"].short),
    )


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ("resnet8+", "names no teacher"),
        ("+", "names no teacher"),
        ("resnet8+resnet8", "names a teacher twice"),
        ("resnet8+resnet20", "no teacher resnet20 for"),
        ("resnet8+nothing", "there is no network 'nothing'"),
        ("resnet8+resnet14@ffff", "no teacher resnet14@ffff"),
    ],
)
def test_what_is_no_ensemble_is_named(teacher: str, text: str, tiny_npz: Path, runs: Path) -> None:
    with pytest.raises(UserError, match=text) as caught:
        cell(opened(tiny_npz, runs), teacher=teacher)
    assert "\n" not in str(caught.value)


def test_logits_are_averaged_live_and_cached(tiny_npz: Path, runs: Path) -> None:
    session = opened(tiny_npz, runs)
    ref = cell(session).teacher
    assert ref is not None
    batches = Batches(session.device_data, session.protocol, 1)
    batches.add(PLAIN)
    batches.begin(1)
    (group, *_) = batches.groups(0)
    images = batches.images(group, PLAIN)
    lives = [session.teachers.live(session.teachers.card(member)) for member in ref.members]
    expected = sum(live.teacher.net.logits(images) for live in lives) / len(lives)
    session.build_caches([cell(session)], cache="on")
    for kind in ("live", "cache"):
        source = session.teachers.source(ref, kind)  # type: ignore[arg-type]
        assert source.kind == kind
        reader = source.reader(batches, PLAIN, LOGITS)
        logits = reader.outputs({None: images}, reader.inputs(group)).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(source, EnsembleSource)
    right = sum(live.teacher.test_logits for live in lives).argmax(1) == session.dataset.test_labels  # type: ignore[union-attr]
    assert source.accuracy == pytest.approx(100 * right.double().mean().item())


def test_caches_of_the_members_are_used(tiny_npz: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(tiny_npz, runs)
    session.build_caches([cell(session, teacher=name, seed=2) for name in NAMES], cache="on")
    before = [cache.bytes for cache in list_caches(runs)]
    assert len(before) == 2
    forwards: list[int] = []
    outputs = LiveTeacher.outputs

    def note(live: LiveTeacher, images: Tensor, reads: Any) -> Any:
        forwards.append(len(images))
        return outputs(live, images, reads)

    monkeypatch.setattr(LiveTeacher, "outputs", note)
    record = opened(tiny_npz, runs).run(cell(session, seed=2), cache="ready")
    assert record["cost"]["teacher_outputs"] == "cache"
    assert record["cost"]["teacher_forwards"] == 0
    assert set(forwards) == {32}  # each segment is compared with the live network
    forwards.clear()
    assert [cache.bytes for cache in list_caches(runs)] == before
    assert [member["network"] for member in record["teacher"]["members"]] == ["resnet14", "resnet8"]
    live = opened(tiny_npz, runs).run(cell(session, "dkd", seed=2), cache="off")
    assert live["cost"]["teacher_forwards"] == sum(forwards) == 2 * 2 * 42


def test_methods_that_read_more_are_unsupported_and_the_others_run(tiny_npz: Path, runs: Path, typed: Typed) -> None:
    words = ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "2", "--runs", str(runs)]
    pair = ["--teacher", "resnet8+resnet14", "--student", "resnet8", "--seed", "3"]
    code, out, err = typed("train", *words, *pair, "--method", "kd", "--method", "crd", "--method", "at")
    assert code == 2, err
    assert "kd resnet14+resnet8>resnet8 seed 3: " in out
    first, second = sorted(err.splitlines())
    assert "at reads feature maps of its teacher, and an ensemble gives logits alone" in first
    assert "crd reads penultimate features of its teacher, and an ensemble gives logits alone" in second
    code, out, err = typed("table", str(runs), "--pairs", "resnet8+resnet14>resnet8")
    assert code == 0, err
    assert "the teacher resnet14+resnet8: an ensemble: the logits of its members are averaged" in out
    code, _, err = typed("cache", "build", *words, "--teacher", "resnet8+resnet14", "--method", "crd")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "gives logits alone" in err


def test_an_ensemble_is_queried_for_streamed_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a method with more views, and with the result of a run of its own."""
    register(monkeypatch)
    images = write_digits(tmp_path / "digits")
    results = []
    for number, methods in enumerate((("kd",), ("kd", "mlld"))):
        runs = tmp_path / f"runs{number}"
        session = Session.open(NAME, data=f"folder:{images}", runs=runs, device="cpu", workers=0)
        for name in NAMES:
            session.train_teacher(name)
        records = session.run_all([cell(session, method) for method in methods])
        results.append(records[0]["weights"])  # type: ignore[index]
    assert results[0] == results[1]


def test_a_grid_trains_the_members_first(tiny_npz: Path, typed: Typed) -> None:
    Path("g.toml").write_text(
        f'protocol = "digits-demo-v1"\ndata = "npz:{tiny_npz}"\npairs = ["resnet8+resnet14>resnet8"]\n'
        'methods = ["kd", "ce", "crd"]\nseeds = 1\nepochs = 1\n'
    )
    code, out, err = typed("grid", "plan", "g.toml", "--device", "cpu")
    assert code == 0, err
    assert out.count("will be trained") == 2
    assert "crd resnet14+resnet8>resnet8" in out
    assert "an ensemble gives logits alone" in out
    Path("g.toml").write_text(Path("g.toml").read_text().replace(', "crd"', ""))
    code, out, err = typed("grid", "run", "g.toml", "--device", "cpu")
    assert code == 0, err
    assert "nothing is left to run" in typed("grid", "plan", "g.toml", "--device", "cpu")[1]
    assert load_protocol("digits-demo-v1").name in str(next(Path("runs").glob("*/resnet14_resnet8-resnet8/kd/*")))
