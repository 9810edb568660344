"""WKD-L and WKD-F: moments of cells, distances of classes, and transport between softmaxes."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from random_outputs import random_logits
from stub_nets import stub_net, stub_setup

from kdbench.methods import _class_distances, wkdf, wkdl

pytestmark = pytest.mark.once


def test_a_cell_has_the_moments_of_its_positions() -> None:
    features = maps(0, size=7)
    mean, deviation = wkdf.cell_moments(features, 2)
    corner = features[:, :, 3:, :4].flatten(2)
    torch.testing.assert_close(mean[:, :, 2], corner.mean(dim=2))
    torch.testing.assert_close(deviation[:, :, 2], (corner.var(dim=2) + wkdf.EPS).sqrt())
    assert wkdf.moment_errors(features, features, 2) == (0, 0)


def test_constant_maps_have_finite_gradients() -> None:
    flat = torch.zeros(2, 3, 4, 4, requires_grad=True)
    torch.stack(wkdf.moment_errors(flat, torch.randn(2, 3, 4, 4), 1)).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_cells_of_one_position_are_refused() -> None:
    nets = [stub_net(shapes=[(4, 4, 4)]) for _ in range(2)]
    with pytest.raises(ValueError, match="grid = 4 leaves cells of one position in maps of 4 x 4"):
        wkdf.WKDF(wkdf.WKDF.Config(grid=4), stub_setup(*nets))


def test_the_weight_falls_from_its_start_to_nothing() -> None:
    factors = [wkdf.decay_factor(progress, 0.5) for progress in (0.1, 0.5, 0.75, 1.0)]
    assert factors == pytest.approx([1, 1, 0.5, 0])
    assert wkdf.decay_factor(1.0, 1.0) == 1


def test_classes_of_rotated_features_are_alike_and_those_of_orthogonal_ones_are_not() -> None:
    rows = torch.linalg.qr(maps(0)[:, 0].reshape(12, 8)[:, :8] - 0).Q
    rows = torch.linalg.qr(rows - rows.mean(dim=0)).Q
    first, second = rows[:, :3], rows[:, 3:6]
    turn = torch.linalg.qr(maps(1)[0, 0, :3, :3]).Q
    rows = torch.stack([first, 2 * first @ turn + 1, second])
    expected = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]]).double()
    for held in (0, 2 * first.nbytes, _class_distances.HELD):
        distances = _class_distances.cka_distances(lambda begin: rows[begin:], 3, held)
        torch.testing.assert_close(distances, expected, atol=1e-9, rtol=0)


def test_rows_are_the_positions_of_the_first_images_of_each_class() -> None:
    features, labels = maps(0, channels=2, size=2), torch.tensor([1, 0, 1, 1, 0, 0])
    labels[5] = 1
    places = _class_distances.first_of_classes(labels, 2)
    assert places.tolist() == [[1, 4], [0, 2]]
    ordered = features[places.flatten()]
    first, second = _class_distances.rows_by_class([ordered[:1], ordered[1:]], 2)
    torch.testing.assert_close(first, torch.cat([features[1].flatten(1).T, features[4].flatten(1).T]))
    torch.testing.assert_close(second[4:], features[2].flatten(1).T)
    *_, last = _class_distances.rows_by_class([ordered[:, :, 0, 0]], 2)
    torch.testing.assert_close(last[1], features[2, :, 0, 0])
    with pytest.raises(ValueError, match='class 2 has none: set distances = "classifier"'):
        _class_distances.first_of_classes(labels, 3)


def test_the_plan_meets_the_students_softmax_and_nearly_the_teachers() -> None:
    """A cost of one class alone gives the mass that the plan moves from it; the target takes no part."""
    student, teacher, targets = random_logits(0)
    others = torch.arange(7) != targets[:, None]
    ours, theirs = (logits.masked_fill(~others, -torch.inf).softmax(dim=1) for logits in (student, teacher))
    flat = torch.full((7, 7), 0.01).double()
    rows, columns = flat.clone(), flat.clone()
    rows[3], columns[:, 3] = 1.01, 1.01
    moved = wkdl.transport_costs(ours, theirs, others, rows, 0.5, 200)
    torch.testing.assert_close(moved, ours[:, 3] + 0.01, atol=1e-5, rtol=0)
    moved = wkdl.transport_costs(ours, theirs, others, columns, 0.5, 200)
    torch.testing.assert_close(moved, theirs[:, 3] + 0.01, atol=1e-5, rtol=0)
