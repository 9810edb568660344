"""Normalisation that is measured from the training images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import Typed
from image_folder import age, write_folder
from PIL import Image

import kdbench
from kdbench.data import statistics
from kdbench.data.datasets import from_arrays, load_dataset
from kdbench.data.decoding import measured
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.files.opening import open_image_files
from kdbench.engine.checks.small import tiny_arrays
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.protocol import load_protocol
from kdbench.models.build import build_net

OWN = """
base = "digits-demo-v1"

[data]
mean = "measured"
std = "measured"

[schedule]
epochs = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of image files, and the protocol ``mine``, whose normalisation is measured."""
    (tmp_path / "own/protocols").mkdir(parents=True)
    (tmp_path / "own/protocols/mine.toml").write_text(OWN)
    monkeypatch.setenv(own_folders.OWN, str(tmp_path / "own"))
    return write_folder(tmp_path / "images")


def pixels_of(root: Path) -> list[np.ndarray]:
    paths = sorted((root / "train").rglob("*.JPEG"))
    return [np.asarray(Image.open(path)).reshape(-1, 3) / 255.0 for path in paths]


def test_arrays_are_measured_over_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", 5)  # 42 images in nine parts
    dataset = from_arrays("tiny", tiny_arrays())
    values = tiny_arrays()["train_images"].reshape(-1, 3).astype(np.float64) / 255
    mean, std = dataset.measured
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-12)


def test_a_channel_of_one_value_has_no_deviation_to_divide_by() -> None:
    arrays = dict(tiny_arrays())
    arrays["train_images"][..., 1] = 77
    with pytest.raises(UserError, match=r"tiny: all pixels of channel 1 .* give std in the protocol"):
        _ = from_arrays("tiny", arrays).measured


def test_each_image_file_counts_alike_whatever_its_size(folder: Path) -> None:
    images = pixels_of(folder)
    assert len({len(image) for image in images}) > 1
    mean, std = measured.measured(open_image_files("folder", str(folder)))
    expected = np.mean([image.mean(0) for image in images], 0)
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    squares = np.mean([(image**2).mean(0) for image in images], 0)
    np.testing.assert_allclose(std, np.sqrt(squares - expected**2), rtol=1e-9)


def test_image_files_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(folder)
    first = open_image_files("folder", str(folder))
    numbers = measured.measured(first)
    kept = folder / ".kdbench-folder-measured.json"
    assert json.loads(kept.read_text())["fingerprint"] == first.fingerprint

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(measured, "_all_moments", never)
        again = open_image_files("folder", str(folder))
        assert measured.measured(again) == numbers
        dataset = StreamedDataset(again, load_protocol("imagefolder-224-v1").rules.augmentation)
        assert dataset.measured == numbers
    for damage in (b"", b"{}", kept.read_bytes().replace(b'"std": [', b'"std": [0, '), b"[1"):
        kept.write_bytes(damage)
        assert measured.measured(again) == numbers


def test_of_many_image_files_a_sample_over_all_classes_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "MOST", 3)
    files = open_image_files("folder", str(folder))
    names = [files.train.name(index) for index in (0, 3, 6)]  # of nine: one of each class
    assert len({Path(name).parent for name in names}) == 3
    expected = np.mean([np.asarray(Image.open(folder / name)).reshape(-1, 3).mean(0) / 255 for name in names], 0)
    np.testing.assert_allclose(measured.measured(files)[0], expected, rtol=1e-12)


def test_the_identity_is_the_word_and_networks_get_the_numbers(folder: Path) -> None:
    mine = load_protocol("mine")
    assert (mine.identity()["mean"], mine.identity()["std"]) == ("measured", "measured")
    dataset = from_arrays("tiny", tiny_arrays())
    net = build_net("resnet8", mine, dataset, seed=0, purpose="student")
    mean, std = dataset.measured
    assert torch.equal(net.mean.flatten(), torch.tensor(mean))
    assert torch.equal(net.std.flatten(), torch.tensor(std))
    (folder.parent / "own/protocols/half.toml").write_text('base = "mine"\n[data]\nstd = [0.5, 0.5, 0.25]\n')
    assert dataset.normalisation(load_protocol("half").rules.data) == (mean, (0.5, 0.5, 0.25))


@pytest.mark.parametrize("value", ['"mesured"', "0.5", '["measured", 1, 1]', "[0.1, 0.2]", "true"])
def test_other_words_are_refused(value: str, folder: Path) -> None:
    (folder.parent / "own/protocols/mine.toml").write_text(f'base = "digits-demo-v1"\n[data]\nmean = {value}\n')
    with pytest.raises(UserError, match=r"\[data\]: mean"):
        load_protocol("mine")


def test_record_and_configuration_show_the_numbers(typed: Typed, tiny_npz: Path, folder: Path) -> None:
    words = ["--network", "resnet8", "--data", f"npz:{tiny_npz}"]
    code, _, err = typed("teacher", "train", "--protocol", "mine", *words)
    assert (code, err) == (0, "")
    code, _, err = typed(
        *("train", "--protocol", "mine", "--teacher", "resnet8", "--student", "resnet8"),
        *("--method", "kd", "--cache", "on", "--data", f"npz:{tiny_npz}"),
    )
    assert (code, err) == (0, "")
    mean, std = load_dataset(f"npz:{tiny_npz}", Path()).measured
    numbers = {"mean": list(mean), "std": list(std)}
    for path in Path("runs").rglob("seed*/record.json"):
        record = json.loads(path.read_text())
        assert record["input"]["mean"] == pytest.approx(mean)
        assert record["input"]["std"] == pytest.approx(std)
        assert record["config"]["protocol"]["mean"] == "measured"
        config = kdbench.utils.reading.read_toml(path.with_name("config.toml"))
        assert config["measured"] == numbers
    code, out, err = typed("table", "runs")
    assert (code, err) == (0, "")
    assert "mine" in out
    assert typed("cache", "check", "--protocol", "mine", "--teacher", "resnet8", "--data", f"npz:{tiny_npz}")[0] == 0
