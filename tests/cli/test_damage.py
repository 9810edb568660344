"""Every kind of file, damaged in every way: a command ends with one clear line and prints no wrong number."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from damaged_runs import COMMANDS, KINDS, READERS, Ending, build, place_of, type_in
from damages import DAMAGES, rights_of_a_user
from report_runs import undrawn

COMBINATIONS = [(kind, damage) for kind in KINDS for damage in DAMAGES]
PART = random.Random(20).sample(COMBINATIONS, 40)
PROFILE = Path(__file__).parents[1] / "data" / "kept" / "profile.toml"


RECORDS = ("record", "teacher's record")
# Without what a search says, its trials are runs like others.
SEARCHES = ("study", "choice of the best", "choice")
# Whose bytes decide what is trained, so that other bytes are another experiment.
INPUTS = ("own method", "own recipe", "data")
# A cache without a teacher is what 'cache prune' deletes.
ORPHANED = {("teacher's card", "removed"), ("identity of a cache", "byte flipped"), ("identity of a cache", "doubled")}
NUMBER = re.compile(r"[+-]?\d[\d,.]*(?:e[+-]?\d+)?")
ACCURACY = re.compile(r"\b\d+\.\d\d(?= %)|(?<=top1 )  +\d+\.\d+")


@dataclass(frozen=True)
class Whole:
    """The folder without damage, and how each command ends in it."""

    folder: Path
    endings: dict[str, Ending]
    left: dict[str, str]
    """Hashes of what commands have written or kept in it, see `hashes`."""
    without: dict[str, dict[str, str]]
    """What tables print without the record of a kind."""

    @property
    def accuracies(self) -> set[str]:
        """Every accuracy that commands print."""
        return {number for ending in self.endings.values() for number in ACCURACY.findall(ending.out)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.analysis.report.sections.draw", undrawn)
        yield make_whole(tmp_path_factory.mktemp("damage"), tiny_npz)


def make_whole(top: Path, npz: Path) -> Whole:
    folder = top / "whole"
    folder.mkdir()
    build(folder, npz, PROFILE)
    endings, left = {}, {}
    for name, words in COMMANDS.items():
        copy = copied(folder, top / "copy")
        endings[name] = type_in(copy, words)
        assert endings[name].code == 0, f"{name}: {endings[name]}"
        left |= hashes(copy)
    without: dict[str, dict[str, str]] = {}
    for kind in RECORDS:
        copy = copied(folder, top / "copy")
        place_of(copy, KINDS[kind][0]).unlink()
        without[kind] = {name: type_in(copy, words).out for name, words in READERS.items() if "csv" in words}
    return Whole(folder, endings, left, without)


def copied(folder: Path, copy: Path) -> Path:
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy, symlinks=True))


def regular_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("**/*") if path.is_file() and not path.is_symlink())


def hashes(folder: Path) -> dict[str, str]:
    """What no damage elsewhere may change: weights of cells and teachers, and whole segments of caches."""
    chosen = {"model.safetensors", "logits.npy", "pairs.npy"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in regular_files(folder)
        if path.name in chosen and ".partial" not in path.parent.name and path.stat().st_size < 2**30
    }


def times(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in regular_files(folder)}


def problems(whole: Whole, kind: str, damage: str, top: Path) -> list[str]:
    """Damage a file of a copy, type each command that meets it, and return what each of them does wrong."""
    pattern, commands = KINDS[kind]
    wrong = []
    for number, name in enumerate(commands):
        copy = copied(whole.folder, top / "copy")
        path = place_of(copy, pattern)
        DAMAGES[damage](path, random.Random(f"{kind} {damage} {number}"))
        before, kept = times(copy), hashes(copy)
        with rights_of_a_user() if damage == "no right" else contextlib.nullcontext():
            ending = type_in(copy, COMMANDS[name])
        texts = [*_ended_badly(kind, ending), *_wrong_numbers(whole, kind, damage, name, ending)]
        if name in READERS and times(copy) != before:
            texts.append("it wrote")
        place, after = str(path.relative_to(copy)), hashes(copy)
        if kind not in INPUTS:
            same = (after.keys() & whole.left.keys()) - {place}
            texts += [f"{file} is another one" for file in same if after[file] != whole.left[file]]
        lost = kept.keys() - after.keys() - {place}
        if lost and (name != "cache prune" or (kind, damage) not in ORPHANED):
            texts.append(f"lost: {', '.join(sorted(lost))}")
        wrong += [f"{kind}, {damage}, {name}: {text}" for text in texts]
    shutil.rmtree(top / "copy")
    return wrong


def numbers(text: str) -> list[list[str]]:
    """The rows of a CSV table that hold records, each with its method and its numbers; notes may differ."""
    rows = ([field for field in row[1:-1] if NUMBER.fullmatch(field)] for row in csv.reader(text.splitlines()))
    return sorted(row for row in rows if len(row) > 2)


def _ended_badly(kind: str, ending: Ending) -> Iterator[str]:
    if ending.trace:
        yield ending.place
    elif ending.code == 1 and kind == "own method" and "own/methods/mine.py, line" in ending.err:
        return  # its user's mistake, with its place
    elif ending.code == 1 and re.search(r"\d differences? in \d+ folders?; report: ", ending.out):
        return  # what 'kdbench verify' is for
    elif ending.code not in (0, 2):
        yield f"exit code {ending.code}: {ending.err}"
    elif ending.code == 2 and not re.search(r"^kdbench: .{10}", ending.err, re.MULTILINE):
        yield f"no reason is given: {ending.err!r}"


def _wrong_numbers(whole: Whole, kind: str, damage: str, name: str, ending: Ending) -> Iterator[str]:
    if ending.code is None or kind in INPUTS:
        return
    if strange := set(ACCURACY.findall(ending.out)) - whole.accuracies:
        yield f"prints {', '.join(sorted(strange))}"
    if "csv" not in COMMANDS[name] or (table := numbers(ending.out)) == numbers(whole.endings[name].out):
        return
    if kind in SEARCHES:
        if damage != "removed" and (ending.code != 2 or "searches" not in ending.err):
            yield f"leaves a search out without a word: {ending.err!r}"
        return
    if kind not in RECORDS or table not in (numbers(whole.without[kind][name]), []):
        yield "prints another table"
    elif damage != "removed" and (ending.code != 2 or "record.json" not in ending.err):
        yield f"leaves a record out without a word: {ending.err!r}"


@pytest.mark.parametrize(("kind", "damage"), PART)
def test_a_part_of_all_damages(whole: Whole, kind: str, damage: str, tmp_path: Path) -> None:
    wrong = problems(whole, kind, damage, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    if request.config.option.markexpr != "once":
        pytest.skip("takes a quarter of an hour: pytest -m once tests/cli/test_damage.py")
    whole: Whole = request.getfixturevalue("whole")
    wrong = [text for damage in DAMAGES for text in problems(whole, kind, damage, tmp_path)]
    assert not wrong, "\n".join(wrong)
