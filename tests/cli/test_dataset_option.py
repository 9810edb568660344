"""``--dataset``: a data set that is listed, under the rules of a protocol for another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cells import Typed

from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol
from kdbench.grid.grid import Grid
from kdbench.grid.submissions import Launch

RULES = ("--protocol", "cifar10-crd-v1", "--dataset", "Digits", "--epochs", "1")


def test_a_listed_data_set_is_run_under_other_rules(typed: Typed) -> None:
    code, _, err = typed("teacher", "train", *RULES, "--network", "resnet8")
    assert (code, err) == (0, "")
    code, _, err = typed("train", *RULES, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd")
    assert (code, err) == (0, "")
    (path,) = Path("runs").glob("*/resnet8-resnet8/kd/*/record.json")
    record = json.loads(path.read_text())
    protocol = load_protocol("cifar10-crd-v1")
    assert record["overrides"] == {"dataset": "digits", "epochs": 1}
    assert record["config"]["protocol"] == protocol.override(dataset="digits", epochs=1).identity()
    assert record["config"]["protocol"]["mean"] == list(protocol.rules.data.mean)
    assert record["test_set"]["images"] == 500
    code, out, err = typed("table", "runs")
    assert (code, err) == (0, "")
    assert "cifar10-crd-v1, with dataset=digits epochs=1" in out
    Path("g.toml").write_text(
        'protocol = "cifar10-crd-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["kd"]\nseeds = [1]\n'
        'epochs = 1\ndataset = "digits"\n'
    )
    grid = Grid.open(Path("g.toml"))
    assert [cell.id for cell in grid.cells] == [record["cell"]]
    again = Session.open(**Launch().session(grid))
    assert again.protocol.identity() == grid.session.protocol.identity()


def test_the_data_set_of_the_protocol_changes_nothing() -> None:
    named = Session.open("digits-demo-v1", dataset="DIGITS").protocol
    assert named.identity() == load_protocol("digits-demo-v1").identity()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dataset": "svnh"}, "unknown data set 'svnh': did you mean svhn?"),
        ({"dataset": ""}, "--dataset must be a text"),
        ({"dataset": 3}, "--dataset must be a text"),
        ({"dataset": "npz:a b.npz"}, "--dataset takes a name: type --data 'npz:a b.npz' in its place"),
        ({"dataset": "svhn", "data": "folder:x"}, "--data folder:x and --dataset svhn are two data sets"),
        ({"dataset": "digits", "data": "data"}, "digits comes with kdbench"),
        ({"dataset": "tinyimagenet", "download": True}, "--download cannot fetch tinyimagenet"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        Session.open("cifar10-crd-v1", **options)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_are_not_for_rules_of_image_files(typed: Typed) -> None:
    words = ("--protocol", "imagenet-crd-v1", "--dataset", "digits", "--network", "resnet8x4", "--epochs", "1")
    code, _, err = typed("teacher", "train", *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "crops and resizes image files, and digits is an array" in err


@pytest.mark.parametrize("value", ["3", '"npz:x"', '"nothing"', "[]"])
def test_a_wrong_line_of_a_grid_is_quoted(value: str, tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        f'protocol = "cifar10-crd-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["kd"]\nseeds = [1]\ndataset = {value}\n'
    )
    with pytest.raises(UserError, match=r"g\.toml: dataset = "):
        Grid.open(path)
