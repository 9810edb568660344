"""Profiles of clusters: what they may say, and what Slurm and submitit are told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import kdbench.slurm
from kdbench.errors import UserError
from kdbench.grid.grid import Grid
from kdbench.grid.overview import Overview
from kdbench.grid.submissions import Launch
from kdbench.slurm import arrays, submit
from kdbench.slurm.profile import load_profile, minutes_of, profile_from

PROFILES = Path(kdbench.slurm.__file__).parent / "profiles"


@pytest.mark.parametrize("name", ["a100.toml", "preemptible-cpu.toml"])
def test_the_documented_profiles(name: str) -> None:
    profile = load_profile(PROFILES / name)
    assert profile.stages.keys() == {"teacher", "cache", "students"}
    assert profile.stages["students"].partition
    assert f"--profile {name}" in (PROFILES / name).read_text()


def test_a_stage_differs_from_the_others_in_what_its_table_says(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        'gres = "gpu:1"\ntime = 90\nsetup = ["a", "b"]\n[sbatch]\nconstraint = "x"\n[teacher]\ntime = "1-0"\ncpus = 9\n'
    )
    stages = load_profile(path).stages
    assert (stages["teacher"].minutes, stages["teacher"].cpus, stages["teacher"].gres) == (1440, 9, "gpu:1")
    assert (stages["students"].minutes, stages["cache"].cpus) == (90, 4)
    assert stages["cache"].setup == ("a", "b")
    assert stages["cache"].sbatch == {"constraint": "x"}


def test_the_earlier_name_of_lockstep_is_read_and_kept_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("together = 2\n[students]\nlockstep = 3\n[teacher]\ncpus = 1\n")
    profile = load_profile(path)
    assert {stage: resources.lockstep for stage, resources in profile.stages.items()} == {
        "teacher": 2, "cache": 2, "students": 3,
    }  # fmt: skip
    values = json.loads(json.dumps(profile.values()))
    assert values["stages"]["students"].items() >= {"together": 3, "cells_per_job": 1}.items()
    assert "lockstep" not in values["stages"]["students"]
    assert profile_from(values) == profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partitio = "gpu"', r"partitio = 'gpu': unknown key: known are partition, account, qos, gres, cpus, memory"),
        ("cpus = 0", r"cpus = 0: must be at least 1"),
        ('cpus = "8"', r"cpus = '8': must be a whole number"),
        ("cpus = true", r"cpus = True: must be a whole number"),
        ("gres = 1", r"gres = 1: must be a string"),
        ('setup = "module load"', r"setup = 'module load': must be a list of strings"),
        ('time = "soon"', r"time = 'soon': must be minutes, HH:MM:SS or D-HH:MM:SS"),
        ('time = "1"', r"time = '1': a job needs at least 2 minutes"),
        ("teacher = 3", r"teacher = 3 must be a table \[teacher\]"),
        ("[teacher]\ncells = 3", r"cells = 3: unknown key"),
        ("together = 1\nlockstep = 2", r"together is the earlier name of lockstep: keep one of the two lines"),
        ("cpus = ", r"is not TOML"),
    ],
)
def test_a_mistake_in_a_profile_names_the_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"profile .* does not exist: .*/profiles has two examples"):
        load_profile(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("08:00:00", 480), ("2-0", 2880), ("1-1:30", 1530), ("1-0:0:1", 1441)],
)
def test_times_as_sbatch_reads_them(time: str, minutes: int) -> None:
    """The notations of sbatch's manual, under --time."""
    assert minutes_of(time) == minutes


def test_a_time_that_is_none() -> None:
    with pytest.raises(ValueError, match=re.escape("must be minutes, HH:MM:SS or D-HH:MM:SS")):
        minutes_of("1h")


@pytest.mark.parametrize(
    ("names", "spelled"),
    [
        (["7"], "7"),
        (["7_0"], "7_[0]"),
        (["7_3", "7_0", "7_1", "7_2", "7_9"], "7_[0-3,9]"),
        ([f"7_{n}" for n in range(0, 6, 2)], "7_[0,2,4]"),
    ],
)
def test_tasks_as_slurm_spells_them(names: list[str], spelled: str) -> None:
    assert arrays.array_notation(names) == spelled


def test_cells_of_one_job_wait_for_one_teacher_and_those_in_lockstep_stay_together(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        'protocol = "digits-demo-v1"\npairs = ["resnet14>resnet8", "resnet20>resnet8"]\n'
        'methods = ["ce", "kd", "reviewkd"]\nseeds = 3\n'
    )
    (tmp_path / "p.toml").write_text("[students]\ncells_per_job = 4\ntogether = 2\n")
    grid = Grid.open(file, runs=tmp_path)
    submitter = submit.Submitter(
        grid,
        Overview(statuses=[], teachers=[], jobs={}, live=[], over=[], taken={}, damages={}, problem=""),
        load_profile(tmp_path / "p.toml"),
        Launch(),
    )
    jobs = submitter._cut(grid.cells)
    assert sorted(cell.id for job in jobs for cell in job) == sorted(cell.id for cell in grid.cells)
    found = [({cell.teacher and cell.teacher.network for cell in job}, [cell.seed for cell in job]) for job in jobs]
    assert found == [
        ({None}, [1, 2, 3]),
        ({"resnet14"}, [1, 1, 2, 2]),
        ({"resnet14"}, [3, 3]),
        ({"resnet20"}, [1, 1, 2, 2]),
        ({"resnet20"}, [3, 3]),
    ]
