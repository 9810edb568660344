"""KD-SVD: its singular vectors, and what it ignores and refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_maps import maps
from random_outputs import rng, seeds
from stub_nets import stub_net, stub_setup

from kdbench.methods import _eigenvectors, kdsvd
from kdbench.methods._eigenvectors import leading_eigenvectors, right_vectors

pytestmark = pytest.mark.once


@pytest.fixture(params=["by_decomposition", "by_powers"])
def find(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take eigenvectors as the CPU does, or as all other devices do."""
    monkeypatch.setattr(_eigenvectors, "by_decomposition", getattr(_eigenvectors, request.param))


@pytest.mark.usefixtures("find")
@pytest.mark.parametrize("shape", [(3, 12, 5), (3, 5, 12), (1, 1, 4)])
def test_singular_vectors_and_their_gradients_are_those_of_an_svd(shape: tuple[int, ...]) -> None:
    gradients, found = [], []
    weights = torch.randn(shape[0], shape[2], 4, generator=rng(1), dtype=torch.float64)
    for exact in (False, True):
        matrices = torch.randn(shape, generator=rng(0), dtype=torch.float64, requires_grad=True)
        if exact:
            _, all_values, rows = torch.linalg.svd(matrices, full_matrices=False)
            values, vectors = all_values[:, :4], rows[:, :4].mT
        else:
            vectors, values = right_vectors(matrices, 4)
        vectors = vectors * vectors.detach()[:, :1].sign()
        found.append((vectors, values))
        gradients += torch.autograd.grad((vectors * weights[:, :, : vectors.shape[2]]).sum(), matrices)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("find")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("diagonal", [(0, 0, 0), (1, 1, 1), (2, 1, 1), (5, 0, 0), (1e-30, 0, 0)])
def test_equal_and_zero_eigenvalues_have_finite_vectors_and_gradients(
    diagonal: tuple[float, ...], dtype: torch.dtype
) -> None:
    gram = torch.diag(torch.tensor(diagonal, dtype=dtype))[None].requires_grad_()
    vectors, values = leading_eigenvectors(gram, 3)
    torch.testing.assert_close(values[0], torch.tensor(diagonal, dtype=dtype))
    expected = torch.diag(torch.tensor([float(value > 0) for value in diagonal], dtype=dtype))
    torch.testing.assert_close((vectors.mT @ vectors)[0], expected)
    (gradient,) = torch.autograd.grad((vectors * torch.arange(9).view(1, 3, 3)).sum(), gram)
    assert gradient.isfinite().all()


@given(seed=seeds, matrix=st.sampled_from(["channels", "columns"]), num=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_kdsvd_is_zero_where_student_is_teacher_and_ignores_order_and_scale(seed: int, matrix: str, num: int) -> None:
    teacher = [maps(seed, channels=4, size=6).relu(), maps(seed + 1, channels=7).relu()]
    student = [(3 * side).requires_grad_() for side in teacher]
    loss = kdsvd.kdsvd_losses(student, teacher, num, matrix)
    assert loss.shape == (1,)
    assert loss.abs().max() < 1e-12
    assert all(gradient.abs().max() < 1e-6 for gradient in torch.autograd.grad(loss.sum(), student))
    other = [maps(seed + 2, channels=4, size=6), maps(seed + 3, channels=7)]
    order = torch.randperm(6, generator=rng(seed))
    moved = kdsvd.kdsvd_losses([side[order] for side in other], [side[order] for side in teacher], num, matrix)
    torch.testing.assert_close(moved, kdsvd.kdsvd_losses(other, teacher, num, matrix))
    turned = kdsvd.kdsvd_losses([-side for side in other], teacher, num, matrix)
    torch.testing.assert_close(moved, turned)


def test_kdsvd_takes_maps_of_zeros() -> None:
    student = [torch.zeros(2, 4, 4, 4, requires_grad=True) for _ in range(2)]
    teacher = [maps(seed, channels=4)[:2].float() for seed in range(2)]
    for theirs in (teacher, [torch.zeros_like(side) for side in teacher]):
        loss = kdsvd.kdsvd_losses(student, theirs, 1, "channels").sum()
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, student))


@pytest.mark.usefixtures("find")
def test_a_matrix_that_is_not_finite_stops_nothing_and_changes_no_other() -> None:
    grams = torch.eye(3).repeat(2, 1, 1)
    grams[1] *= torch.nan
    vectors, _ = leading_eigenvectors(grams, 1)
    assert vectors[0].norm() == pytest.approx(1)


def test_kdsvd_refuses_networks_that_it_cannot_compare() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    net, wide, flat = stub_net(shapes=shapes), stub_net(shapes=[(4, 8, 8), (9, 4, 4)]), stub_net(shapes=shapes[1:])
    with pytest.raises(ValueError, match=r"equally many channels, but stub has \[4, 6\] and stub \[4, 9\]"):
        kdsvd.KDSVD(kdsvd.KDSVD.Config(), stub_setup(net, wide))
    kdsvd.KDSVD(kdsvd.KDSVD.Config(matrix="columns"), stub_setup(net, wide))
    with pytest.raises(ValueError, match="at least 2 stages, but stub has 1"):
        kdsvd.KDSVD(kdsvd.KDSVD.Config(), stub_setup(net, flat))
