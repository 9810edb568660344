"""The word of ``--data``: one reader for every protocol and every way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import Typed
from small_data import message

import kdbench
from kdbench.data.place import DataPlace
from kdbench.grid.grid import Grid

GRID = """
protocol = "{protocol}"
pairs = ["resnet8>resnet8"]
methods = ["ce"]
seeds = 1
data = "{data}"
"""
Way = Callable[[str, str], str]
"""Gives a word to kdbench under a protocol; returns what it says."""
PROTOCOLS = ["digits-demo-v1", "cifar10-crd-v1"]


@pytest.fixture(params=["cli", "python", "grid line", "grid option"])
def way(request: pytest.FixtureRequest, typed: Typed, tmp_path: Path) -> Way:
    """One of the ways in."""

    def give(word: str, protocol: str) -> str:
        words = {"student": "resnet8", "method": "ce", "epochs": 1}
        if request.param == "python":
            return message(lambda: kdbench.train(protocol, data=word, **words))
        if request.param == "cli":
            code, _, error = typed("train", "--protocol", protocol, *flags(words), "--data", word)
        else:
            of_file = word if request.param == "grid line" else "somewhere"
            Path("g.toml").write_text(GRID.format(protocol=protocol, data=of_file))
            option = ["--data", word] if request.param == "grid option" else []
            code, _, error = typed("grid", "run", "g.toml", *option)
        assert (code, error.count("\n")) == (2, 1), error
        return error.removesuffix("\n")

    return give


def flags(words: dict[str, object]) -> list[str]:
    return [text for key, value in words.items() for text in (f"--{key}", str(value))]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_without_npz_is_refused(way: Way, protocol: str, tiny_npz: Path) -> None:
    assert f"--data {tiny_npz} is a file, not a folder of data sets: type npz:{tiny_npz}" in way(
        str(tiny_npz), protocol
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_folder_that_is_not_there_is_refused(way: Way, protocol: str) -> None:
    assert f"there is no folder {Path.cwd()}/nowhere" in way("nowhere", protocol)


@pytest.mark.parametrize("word", ["", " "])
def test_nothing_is_no_folder(way: Way, word: str) -> None:
    assert "--data is empty: give a folder of data sets, or npz:FILE" in way(word, "digits-demo-v1")


@pytest.mark.parametrize("kind", ["npz", "NPZ", " Npz "])
def test_npz_is_read_in_capitals_too(kind: str, tiny_npz: Path, tmp_path: Path) -> None:
    session = kdbench.Session.open("digits-demo-v1", data=f"{kind}:{tiny_npz}", runs=tmp_path)
    assert session.dataset.num_classes == 3
    assert session.protocol.dataset == f"npz:{session.dataset.fingerprint[:16]}"
    (tmp_path / "g.toml").write_text(GRID.format(protocol="digits-demo-v1", data=f"{kind}:{tiny_npz}"))
    assert Grid.open(tmp_path / "g.toml", runs=tmp_path).session.protocol == session.protocol


def test_options_that_say_nothing_about_the_data_are_refused(tiny_npz: Path, tmp_path: Path) -> None:
    def refusal(**options: object) -> str:
        return message(lambda: kdbench.Session.open("digits-demo-v1", runs=tmp_path, **options))  # type: ignore[arg-type]

    assert refusal(download=True).startswith("--download is of no use: digits comes with kdbench; leave it out")
    assert refusal(data=tmp_path).startswith(f"--data {tmp_path} is of no use: digits comes with kdbench; leave it out")
    assert refusal(data=f"npz:{tiny_npz}", download=True).startswith("--download is of no use with npz:FILE")


def test_a_folder_to_download_into_need_not_exist(tmp_path: Path) -> None:
    place = DataPlace.parse(tmp_path / "new")
    place.check("cifar10", download=True)
    assert "type --download to have cifar10 fetched into it" in message(lambda: place.load("cifar10", download=False))


def test_a_word_is_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    words = {"data": f"{tmp_path}/data", "~/d": f"{tmp_path}/home/d", "NPZ:a b.npz": f"npz:{tmp_path}/a b.npz"}
    assert {word: DataPlace.parse(word).absolute("cifar10") for word in words} == words
    assert DataPlace.parse("npz:~/x.npz").absolute("npz:0") == f"npz:{tmp_path}/home/x.npz"
    assert DataPlace.parse(None).absolute("cifar10") == f"{tmp_path}/data"
    assert DataPlace.parse(None).absolute("digits") is None


def test_a_subset_overwrites_nothing(typed: Typed, tiny_npz: Path) -> None:
    counts = ["--train-per-class", "2", "--test-per-class", "all"]
    Path("d.npz").write_bytes(tiny_npz.read_bytes())
    Path("thesis.tex").write_text("chapter 1")
    for source, out in (("npz:d.npz", "d.npz"), ("digits", "thesis.tex"), ("digits", ".")):
        code, _, error = typed("data", "subset", source, out, *counts)
        assert (code, error) == (
            2,
            f"kdbench: {out} exists, and nothing is overwritten: give another path, or delete it first\n",
        )
    assert Path("thesis.tex").read_text() == "chapter 1"
    code, out, _ = typed("data", "subset", "npz:d.npz", "new.npz", *counts)
    assert code == 0
    assert out.startswith("new.npz: 6 training and 30 test images\n")


def test_a_subset_says_what_it_cannot_use(typed: Typed, tiny_npz: Path) -> None:
    words = ["o.npz", "--train-per-class", "1", "--test-per-class", "1"]
    for more, text in (
        (["digits", *words, "--data", f"npz:{tiny_npz}"], "is not used: name the file in place of digits"),
        (["digits", *words, "--download"], "--download is of no use: digits comes with kdbench"),
        ([tiny_npz, *words], f"did you mean npz:{tiny_npz}?"),
        (["cifar10", *words, "--data", "nowhere"], "there is no folder"),
        (["cifar-11", *words, "--data", "nowhere"], "unknown data set"),
    ):
        code, _, error = typed("data", "subset", *more)
        assert (code, error.count("\n")) == (2, 1)
        assert text in error
    assert not Path("o.npz").exists()


def test_every_data_set_says_who_trains_on_it(typed: Typed) -> None:
    rows = {line.split()[0]: line for line in typed("list", "datasets")[1].splitlines()}
    assert rows["cifar10"].endswith("cifar10-crd-v1")
    assert "none of its own: --dataset NAME, with all but imagefolder-224-v1" in rows["svhn"]
