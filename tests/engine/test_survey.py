"""What a method computes over the training set: once for a teacher, and kept for all cells."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from cells import make_run

from kdbench.engine.survey import FOLDER
from kdbench.methods import _class_distances, wkdl

pytestmark = pytest.mark.once


def test_a_survey_is_of_the_plain_training_images_and_is_made_once(tiny_npz: Path, tmp_path: Path) -> None:
    first = make_run(tiny_npz, tmp_path, "wkdl")
    distances = first.method.get_buffer("distances")
    assert first.source is not None
    assert first.source.net is not None
    images = first.data.dataset.unaugmented(
        _class_distances.first_of_classes(first.batches.labels, 3).flatten(), torch.device("cpu")
    )
    maps = [first.source.net(each, {"stages"}, "teacher").stages[-1].detach() for _, each in images.batches()]
    rows = list(_class_distances.rows_by_class(maps, 14))
    expected = _class_distances.cka_distances(lambda begin: rows[begin:], 3)
    torch.testing.assert_close(distances, expected, atol=1e-4, rtol=1e-4)
    (file,) = (tmp_path / FOLDER).iterdir()
    with mock.patch.object(wkdl.WKDL, "survey", side_effect=AssertionError):
        again = make_run(tiny_npz, tmp_path, "wkdl", seed=2)
    assert torch.equal(again.method.get_buffer("distances"), distances)
    file.write_bytes(b"damaged")
    mended = make_run(tiny_npz, tmp_path, "wkdl")
    assert torch.equal(mended.method.get_buffer("distances"), distances)
    assert file.read_bytes() != b"damaged"


def test_held_out_images_are_no_part_of_it(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "wkdl", validation=0.5)
    make_run(tiny_npz, tmp_path, "wkdl")
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    assert run.batches.num_images == 21
