"""Images of Hugging Face data sets, which need the package ``datasets``."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_folder import write_folder

from kdbench.data.files.listing import Changed, ImageFiles
from kdbench.data.files.opening import open_image_files
from kdbench.data.files.rows import Rows
from kdbench.errors import UserError


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The package, with a cache of its own and without network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    package.disable_progress_bars()
    return package


@pytest.fixture
def folder(tmp_path: Path) -> ImageFiles:
    return open_image_files("folder", str(write_folder(tmp_path / "folder")))


def write_parquet(datasets: Any, root: Path, folder: ImageFiles) -> Path:
    root.mkdir()
    for split, listing in (("train", folder.train), ("validation", folder.test)):
        names = datasets.ClassLabel(names=list(folder.class_names))
        rows = {
            "image": [{"bytes": listing.read(index), "path": None} for index in range(len(listing))],
            "label": listing.labels.tolist(),
        }
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(image=datasets.Image(), label=names))
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


def test_rows_of_images(datasets: Any, folder: ImageFiles, tmp_path: Path) -> None:
    word = str(write_parquet(datasets, tmp_path / "rows", folder))
    files = open_image_files("hfds", word)
    assert (files.name, files.class_names) == ("hfds:rows", folder.class_names)
    assert files.train.name(3) == "train/3"
    for index in range(9):
        assert files.train.read(index) == folder.train.read(index)
    assert files.train.sizes.tolist() == folder.train.sizes.tolist()
    assert files.test.labels.tolist() == folder.test.labels.tolist()
    assert pickle.loads(pickle.dumps(files.train)).read(8) == folder.train.read(8)
    for path in (tmp_path / "hf").rglob("*.arrow"):
        path.touch()
    assert open_image_files("hfds", word).fingerprint == files.fingerprint


def test_rows_that_name_files(datasets: Any, folder: ImageFiles, tmp_path: Path) -> None:
    root = tmp_path / "named"
    shutil.copytree(tmp_path / "folder/train", root / "train")
    shutil.copytree(tmp_path / "folder/val", root / "validation")
    files = open_image_files("hfds", str(root))
    assert files.class_names == ("cat", "dog10", "dog9")  # the data set's own order
    assert files.train.name(3) == "train/3/dog10_0.JPEG"
    image = root / "train/dog10/dog10_0.JPEG"
    assert files.train.read(3) == image.read_bytes()
    with image.open("ab") as file:
        file.write(b"x")
    with pytest.raises(Changed):
        files.train.read(3)


def test_what_is_no_such_data_set_is_one_line(datasets: Any, folder: ImageFiles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hfds:/no/where cannot be loaded"):
        open_image_files("hfds", "/no/where")
    root = tmp_path / "named"
    shutil.copytree(tmp_path / "folder/train", root / "train")
    with pytest.raises(UserError, match="has no split validation or test"):
        open_image_files("hfds", str(root))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="hfds:x needs the package datasets: type 'pip install datasets'"):
        Rows("x", "hfds:x")
