"""A data set of 1.28 million files is opened from its kept listing: seconds, and MB of memory as extra information.

Folders, names and sizes are made up, as many and as long as ImageNet's, and there are no files. Opened, checked,
fingerprinted and put in order for an epoch, in a process of its own, start-up and the import of torch included.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folder import age
from timed_command import timed_python

from kdbench.data.files.folders import Folders
from kdbench.data.files.index import Index, Split, keep
from kdbench.data.files.names import NAMED

OPEN = """
import sys
from kdbench.data.files.opening import open_image_files
from kdbench.data.views import order
files = open_image_files("imagenet", sys.argv[1])
assert (files.num_classes, len(files.train), len(files.test)) == (1000, 1_281_167, 50_000)
assert len(files.fingerprint) == 64
assert len(order(1, 1, len(files.train)).unique()) == 1_281_167
assert files.train.name(1_281_166).startswith("train/n00000999/")
"""


def split(folder: str, class_names: tuple[str, ...], num_images: int) -> Split:
    labels = np.sort(np.arange(num_images) % len(class_names))
    names = "".join(
        f"{folder}/{class_names[label]}/{class_names[label]}_{place:08d}.JPEG\n"
        for place, label in enumerate(labels.tolist())
    )
    return Split(names.encode(), labels, np.random.default_rng(0).integers(1, 220_000, num_images))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    num_classes, num_train, num_test = NAMED["imagenet"]
    class_names = tuple(f"n{number:08d}" for number in range(num_classes))
    for name in class_names:
        (root / "train" / name).mkdir(parents=True)
        (root / "val" / name).mkdir(parents=True)
    age(root)
    source = Folders("imagenet", root, f"imagenet:{root}")
    index = Index(class_names, split("train", class_names, num_train), split("val", class_names, num_test), {})
    assert keep(replace(index, stamps=source.stamps()), source.places()) == root / ".kdbench-imagenet.npz"
    return root


def test_a_listing_of_imagenet_is_opened(benchmark: Any, root: Path) -> None:
    benchmark.extra_info["MB"] = timed_python(benchmark, "-c", OPEN, str(root))
