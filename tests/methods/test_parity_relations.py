"""Stored values of methods that compare maps or relations, against their functions and classes; their properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_files import Case, load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_methods_properties import built, outputs
from test_parity_losses import check_gradients, load_weights, total, weight_leaves
from torch import Tensor
from torch.nn import functional

from kdbench.functional import cross_entropy, to_smaller_size
from kdbench.method import Method
from kdbench.methods import at, cc, kdsvd, nst, pkt, rkd, sp
from kdbench.methods._eigenvectors import leading_eigenvectors, right_vectors
from kdbench.methods.kd import kl_per_image
from kdbench.net import Outputs

pytestmark = pytest.mark.once

seeds = st.integers(0, 2**31 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(case: Case) -> float:
    return case.value("hp.feat_weight" if "hp.feat_weight" in case.arrays else "hp.kd_weight")


def kd_settings(case: Case) -> dict[str, float]:
    """Weights of the cross entropy and, in files of RepDistiller, of KD's divergence."""
    found = {"ce_weight": case.value("hp.ce_weight")}
    if "hp.kl_weight" in case.arrays:
        found |= {"kd_weight": case.value("hp.kl_weight"), "kd_temperature": case.value("hp.kl_T")}
    return found


class Sides:
    """A file's two networks: leaves by the names of the stored gradients, and what each network puts out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.targets = case.tensor("in.target")
        self.leaves: dict[str, Tensor] = {}
        self.outputs: list[Outputs] = []
        self.nets = []
        for side, owner in (("s", "student"), ("t", "teacher")):
            found = {
                key: case.tensor(f"in.{key}", grad=side == "s")
                for key in sorted(k.removeprefix("in.") for k in case.arrays if k.startswith("in."))
                if key.endswith(f"_{side}") or f"_{side}." in key
            }
            self.leaves |= found
            stages = tuple(value for key, value in found.items() if key.startswith("feats_"))
            logits, pooled = found[f"logits_{side}"], found.get(f"pooled_{side}")
            self.outputs.append(Outputs(owner, logits=logits, penultimate=pooled, stages=stages))
            shapes = [(m.shape[1], m.shape[2], m.shape[3]) for m in stages]
            width = 8 if pooled is None else pooled.shape[1]
            self.nets.append(stub_net(width=width, num_classes=logits.shape[1], shapes=shapes))

    @property
    def stages(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.outputs[0].stages, self.outputs[1].stages, strict=True))

    @property
    def pooled(self) -> tuple[Tensor, Tensor]:
        return self.outputs[0].penultimate, self.outputs[1].penultimate

    def check(self, kind: type[Method], names: dict[str, str] | None = None, **config: Any) -> Method:
        """Check the class with these settings: total, cross entropy, divergence and every stored gradient."""
        case, (student, teacher) = self.case, self.outputs
        method = kind(kind.Config(**kd_settings(case), **config), stub_setup(self.nets[0], self.nets[1]))
        method = method.to(case.dtype)
        load_weights(case, method, names or {})
        loss = total(method.loss(student, teacher, stub_batch(self.targets)))
        case.check("out.total", loss)
        case.check("out.ce", cross_entropy(student.logits, self.targets).mean())
        if "out.kl" in case.arrays:
            case.check("out.kl", kl_per_image(student.logits, teacher.logits, case.value("hp.kl_T")).mean())
        loss.backward()
        check_gradients(case, self.leaves | weight_leaves(method, names or {}))
        return method


@pytest.mark.parametrize("name", names("at"))
def test_at(name: str) -> None:
    case = load("at", name)
    sides = Sides(case)
    power = int(case.value("hp.p"))
    losses = torch.stack([at.at_loss(*pair, power) for pair in sides.stages])
    case.check("out.at_per_stage", losses)
    case.check("out.at", losses.sum())
    sides.check(at.AT, at_weight=weight(case), power=power)


@pytest.mark.parametrize("name", names("sp"))
def test_sp(name: str) -> None:
    case = load("sp", name)
    sides = Sides(case)
    loss = sp.sp_loss(*sides.stages[-1])
    case.check("out.sp", loss)
    if "out.sp_per_stage" in case.arrays:
        case.check("out.sp_per_stage", loss)
    sides.check(sp.SP, sp_weight=weight(case))


@pytest.mark.parametrize("name", names("pkt"))
def test_pkt(name: str) -> None:
    case = load("pkt", name)
    sides = Sides(case)
    epsilon = case.value("hp.eps")
    case.check("out.pkt", pkt.pkt_loss(*sides.pooled, epsilon))
    sides.check(pkt.PKT, pkt_weight=weight(case), epsilon=epsilon)


@pytest.mark.parametrize("name", names("rkd"))
def test_rkd(name: str) -> None:
    case = load("rkd", name)
    sides = Sides(case)
    epsilon = case.value("hp.eps")
    weights = [case.value(f"hp.{kind}_weight") for kind in ("distance", "angle")]
    assert not case.arrays["hp.squared"]
    distance, angle = rkd.rkd_losses(*sides.pooled, epsilon)
    case.check("out.distance", distance)
    case.check("out.angle", angle)
    case.check("out.rkd", weights[0] * distance + weights[1] * angle)
    outer = weight(case)
    sides.check(rkd.RKD, distance_weight=outer * weights[0], angle_weight=outer * weights[1], epsilon=epsilon)


@pytest.mark.parametrize("name", names("nst"))
def test_nst(name: str) -> None:
    case = load("nst", name)
    sides = Sides(case)
    losses = torch.stack([nst.nst_loss(*pair) for pair in sides.stages])
    case.check("out.nst_per_stage", losses)
    case.check("out.nst", losses.sum())
    sides.check(nst.NST, nst_weight=weight(case))


CC_WEIGHTS = {"student_embed.": "embed_s.linear.", "teacher_embed.": "embed_t.linear."}


@pytest.mark.parametrize("name", names("cc"))
def test_cc(name: str) -> None:
    case = load("cc", name)
    sides = Sides(case)
    method = sides.check(cc.CC, CC_WEIGHTS, cc_weight=weight(case), feat_dim=int(case.value("hp.feat_dim")))
    assert isinstance(method, cc.CC)
    embedded = method.student_embed(sides.pooled[0]), method.teacher_embed(sides.pooled[1])
    case.check("out.embedded_s", embedded[0])
    case.check("out.embedded_t", embedded[1])
    case.check("out.cc", cc.neighbour_loss(*embedded))


@pytest.mark.parametrize("name", names("kdsvd"))
def test_kdsvd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stored signs of the teacher's vectors, on which the loss depends."""
    case = load("kdsvd", name)
    sides = Sides(case)
    num, matrix = int(case.value("hp.k")), "channels" if name.startswith("rep_") else "columns"
    stages = range(1, 4)

    def as_stored(vectors: Tensor) -> Tensor:
        (stored,) = (
            case.tensor(f"svd.v_t.{stage}")
            for stage in stages
            if case.arrays[f"svd.v_t.{stage}"].shape == vectors.shape
        )
        return vectors * (vectors * stored).sum(dim=1, keepdim=True).sign()

    monkeypatch.setattr(kdsvd, "oriented", as_stored)
    for side, extra in (("s", 3), ("t", 0)):
        for stage in stages:
            maps = kdsvd.as_matrices(case.tensor(f"in.feats_{side}.{stage}"), matrix)
            vectors, values = right_vectors(maps, num + extra)
            stored = case.tensor(f"svd.v_{side}.{stage}")
            case.check(f"svd.v_{side}.{stage}", vectors * (vectors * stored).sum(dim=1, keepdim=True).sign())
            case.check(f"svd.s_{side}.{stage}", functional.normalize(values, dim=1))
    losses = kdsvd.kdsvd_losses(*zip(*sides.stages, strict=True), num, matrix)
    if "out.kdsvd" in case.arrays:
        case.check("out.kdsvd", losses.sum())
    else:
        case.check("out.kdsvd_per_pair", losses)
    sides.check(kdsvd.KDSVD, kdsvd_weight=weight(case), num_vectors=num, matrix=matrix)


# --- properties ---


def features(seed: int, rows: int = 6, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=rng(seed), dtype=torch.float64)


def maps(seed: int, channels: int = 5, size: int = 4) -> Tensor:
    return torch.randn(6, channels, size, size, generator=rng(seed), dtype=torch.float64)


OF_MAPS = {"at": at.at_loss, "sp": sp.sp_loss, "nst": nst.nst_loss}
OF_FEATURES = {
    "pkt": pkt.pkt_loss,
    "rkd distance": lambda *sides: rkd.rkd_losses(*sides)[0],
    "rkd angle": lambda *sides: rkd.rkd_losses(*sides)[1],
    "cc kernel": lambda *sides: cc.kernel_loss(*sides, 0.4),
}
LOSSES: dict[str, Any] = OF_MAPS | OF_FEATURES


def inputs(name: str, seed: int) -> Tensor:
    return maps(seed) if name in OF_MAPS else features(seed)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds, scale=st.floats(0.1, 10))
@settings(max_examples=15, deadline=None)
def test_a_scaled_teacher_is_met_by_itself_with_zero_gradient(name: str, seed: int, scale: float) -> None:
    teacher = inputs(name, seed)
    student = (scale * teacher).requires_grad_()
    loss = LOSSES[name](student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-7 if name == "pkt" else abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_losses_are_positive_and_ignore_the_order_of_images(name: str, seed: int) -> None:
    student, teacher = inputs(name, seed), inputs(name, seed + 1)
    order = torch.randperm(6, generator=rng(seed))
    loss = LOSSES[name](student, teacher)
    assert loss > 0
    torch.testing.assert_close(loss, LOSSES[name](student[order], teacher[order]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("student_value", [None, 0.0, 1.0])
def test_small_batches_and_equal_images_have_finite_gradients(
    name: str, rows: int, student_value: float | None
) -> None:
    """One image; images that are all zeros or all alike; in float32."""
    teacher = inputs(name, 1)[:rows].float()
    student = inputs(name, 0)[:rows].float() if student_value is None else torch.full_like(teacher, student_value)
    student.requires_grad_()
    loss = LOSSES[name](student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if rows == 1 and name not in ("at", "nst") and student_value != 0:
        assert loss.abs() < 1e-12


@pytest.mark.parametrize("kind", [at.AT, sp.SP, pkt.PKT, rkd.RKD, nst.NST, cc.CC, kdsvd.KDSVD])
def test_a_batch_of_one_image_trains(kind: type[Method]) -> None:
    module = built(kind)
    student = outputs("student", 1)
    terms = module.loss(student, outputs("teacher", 1, seed=1), stub_batch(torch.tensor([3])))
    total(terms).backward()
    assert all(term.isfinite() for term in terms.values())
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@given(seed=seeds, channels=st.integers(1, 6), size=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_nst_is_the_distance_of_mean_products_of_positions(seed: int, channels: int, size: int) -> None:
    """The polynomial kernel's MMD, by channels and by positions, against a literal double loop over channels."""
    student, teacher = maps(seed, channels, size), maps(seed + 1, 3, size)
    rows = [functional.normalize(side.flatten(2), dim=2) for side in (student, teacher)]

    def mean(one: Tensor, other: Tensor) -> Tensor:
        kernels = [
            (one[:, i] * other[:, j]).sum(dim=1) ** 2 for i in range(one.shape[1]) for j in range(other.shape[1])
        ]
        return torch.stack(kernels).mean()

    expected = mean(rows[1], rows[1]) + mean(rows[0], rows[0]) - 2 * mean(rows[0], rows[1])
    torch.testing.assert_close(nst.nst_loss(student, teacher), expected, rtol=1e-9, atol=1e-12)


def test_at_needs_no_sign_and_takes_maps_of_any_size() -> None:
    student, teacher = maps(0), maps(1, channels=3, size=8)
    torch.testing.assert_close(at.at_loss(student, teacher, 3), at.at_loss(-student, teacher, 3))
    pooled = functional.adaptive_avg_pool2d(teacher, 4)
    assert torch.equal(at.at_loss(student, teacher), at.at_loss(student, pooled))
    assert [tuple(side.shape[2:]) for side in to_smaller_size(maps(0, size=2), teacher)] == [(2, 2)] * 2
    wide, high = torch.zeros(1, 1, 2, 6), torch.zeros(1, 1, 4, 3)
    assert [tuple(side.shape[2:]) for side in to_smaller_size(wide, high)] == [(2, 3)] * 2


@pytest.mark.parametrize("kind", [at.AT, sp.SP, nst.NST])
def test_networks_without_stages_are_refused(kind: type[Method]) -> None:
    with pytest.raises(ValueError, match="stub has 0: choose another network"):
        kind(kind.Config(), stub_setup(stub_net(), stub_net(shapes=[(4, 8, 8)])))


@pytest.mark.parametrize("kind", [at.AT, nst.NST])
def test_the_deepest_stages_are_matched(kind: type[Method]) -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    method = kind(kind.Config(), stub_setup(stub_net(shapes=shapes[1:]), stub_net(shapes=shapes)))
    student, teacher = outputs("student", 3), outputs("teacher", 3, seed=1)
    deepest = Outputs("student", logits=student.logits, stages=student.stages[1:])
    loss = method.loss(deepest, teacher, stub_batch(torch.arange(3)))
    one = {at.AT: at.at_loss, nst.NST: nst.nst_loss}[kind](student.stages[1], teacher.stages[1])
    name = "at" if kind is at.AT else "nst"
    torch.testing.assert_close(loss[name], {"at": 1000, "nst": 50}[name] * one)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_rkd_ignores_rotations_and_widths(seed: int) -> None:
    student, teacher = features(seed), features(seed + 1, width=9)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng(seed), dtype=torch.float64))[0]
    for plain, turned in zip(
        rkd.rkd_losses(student, teacher), rkd.rkd_losses(student @ rotation + 3, teacher), strict=True
    ):
        torch.testing.assert_close(plain, turned)


def test_rkd_gives_equal_images_no_direction_in_float32() -> None:
    """Two equal images among others far from the origin: no gradient pulls them, whatever rounding does."""
    student = (features(0).float() + 1000).index_copy(0, torch.tensor([1]), features(0)[:1].float() + 1000)
    student.requires_grad_()
    distances = rkd.relative_distances(rkd.differences(student)[1])
    assert distances[0, 1] < 1e-5
    torch.stack(rkd.rkd_losses(student, features(1).float())).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 10


def test_cc_compares_neighbours_or_kernels() -> None:
    student, teacher = features(0), features(1)
    delta = (student - teacher).abs()
    expected = sum((delta[i] * delta[i + 1]).sum() for i in range(5)) / 5
    torch.testing.assert_close(cc.neighbour_loss(student, teacher), expected)
    assert cc.neighbour_loss(student[:1], teacher[:1]) == 0

    rows = functional.normalize(student, dim=1)
    exact = torch.exp(-0.05 * torch.cdist(rows, rows).square())
    torch.testing.assert_close(cc.correlations(student, 0.05), exact, rtol=1e-3, atol=0)
    kernel = built(cc.CC, form="kernel")
    assert not list(kernel.parameters())
    terms = kernel.loss(outputs("student", 4), outputs("teacher", 4, seed=1), stub_batch(torch.arange(4)))
    assert terms["cc"] > 0


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


def test_kdsvd_refuses_networks_that_it_cannot_compare() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    net, wide, flat = stub_net(shapes=shapes), stub_net(shapes=[(4, 8, 8), (9, 4, 4)]), stub_net(shapes=shapes[1:])
    with pytest.raises(ValueError, match=r"equally many channels, but stub has \[4, 6\] and stub \[4, 9\]"):
        kdsvd.KDSVD(kdsvd.KDSVD.Config(), stub_setup(net, wide))
    kdsvd.KDSVD(kdsvd.KDSVD.Config(matrix="columns"), stub_setup(net, wide))
    with pytest.raises(ValueError, match="at least 2 stages, but stub has 1"):
        kdsvd.KDSVD(kdsvd.KDSVD.Config(), stub_setup(net, flat))


def test_methods_are_exposed() -> None:
    for module, kind in (
        (at, at.AT),
        (sp, sp.SP),
        (pkt, pkt.PKT),
        (rkd, rkd.RKD),
        (nst, nst.NST),
        (cc, cc.CC),
        (kdsvd, kdsvd.KDSVD),
    ):
        assert module.METHOD is kind
