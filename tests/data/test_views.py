"""View ids, their random choice, and the augmentation of resident images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad as pad_with_zeros

from kdbench.data.resident import ResidentImages
from kdbench.data.views import Augmentation, order
from kdbench.method import PLAIN, ViewPlan

CIFAR = Augmentation(pad=4, flip=True)
ROTATIONS = ViewPlan((0, 1, 2, 3))
AUGMENTATIONS = st.builds(Augmentation, pad=st.integers(0, 5), flip=st.booleans())
PLANS = st.lists(st.integers(0, 3), max_size=4).map(lambda turns: ViewPlan((0, *turns)))


def literal(image: Tensor, pad: int, parts: Sequence[int]) -> Tensor:
    """One view of one uint8 ``(H, W, 3)`` image, step by step as PCKD's loader makes it: ``(3, H, W)``."""
    flip, turns, dy, dx = parts
    height, width, _ = image.shape
    result = image.permute(2, 0, 1).to(torch.float32) / 255
    if flip:
        result = torch.flip(result, (2,))
    result = torch.rot90(result, turns, (1, 2))
    return pad_with_zeros(result, (pad, pad, pad, pad))[:, dy : dy + height, dx : dx + width]


def random_images(num_images: int, height: int, width: int) -> Tensor:
    shape = (num_images, height, width, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_ids_are_numbered_without_gaps(pad: int) -> None:
    augmentation = Augmentation(pad, flip=True)
    ids = torch.arange(augmentation.num_views)
    flip, turns, dy, dx = augmentation.parts(ids)
    assert torch.equal(augmentation.view_id(flip, turns, dy, dx), ids)
    assert set(flip.tolist()) == {0, 1}
    assert set(turns.tolist()) == {0, 1, 2, 3}
    assert set(dy.tolist()) == set(dx.tolist()) == set(range(2 * pad + 1))
    assert [part.item() for part in augmentation.parts(torch.tensor(augmentation.identity))] == [0, 0, pad, pad]


def test_cifar_has_648_views_flipped_or_not() -> None:
    assert CIFAR.num_views == Augmentation(pad=4, flip=False).num_views == 648


def test_a_negative_pad_is_refused() -> None:
    with pytest.raises(ValueError, match="pad must be 0 or more pixels, not -1"):
        Augmentation(pad=-1, flip=True)


@pytest.mark.parametrize(("size", "pad"), [(8, 2), (5, 0), (4, 5), (1, 1), (7, 1)])
def test_every_view_is_the_literal_one_to_the_bit(size: int, pad: int) -> None:
    images = random_images(2, size, size)
    augmentation = Augmentation(pad, flip=True)
    resident = ResidentImages(images, augmentation)
    ids = torch.arange(augmentation.num_views)
    result = resident.augment(torch.tensor([1, 0]), ids.unsqueeze(1).expand(-1, 2))
    assert result.shape == (2 * len(ids), 3, size, size)
    assert result.dtype == torch.float32
    parts = torch.stack(augmentation.parts(ids), 1).tolist()
    expected = [literal(images[i], pad, part) for part in parts for i in (1, 0)]
    assert torch.equal(result, torch.stack(expected))


def test_every_byte_becomes_the_quotient_by_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    result = ResidentImages(images, CIFAR).augment(torch.tensor([0]), torch.tensor([CIFAR.identity]))
    assert torch.equal(result[0, 0].flatten(), torch.arange(256) / 255)


def test_the_turn_is_counter_clockwise_and_after_the_flip() -> None:
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    images[0, 0, 0] = 255
    augmentation = Augmentation(pad=0, flip=True)
    resident = ResidentImages(images, augmentation)
    turned = augmentation.view_id(*torch.tensor([0, 1, 0, 0]))
    assert resident.augment(torch.tensor([0]), turned.view(1))[0, 0].tolist() == [[0, 0], [1, 0]]
    both = augmentation.view_id(*torch.tensor([1, 1, 0, 0]))
    assert resident.augment(torch.tensor([0]), both.view(1))[0, 0].tolist() == [[1, 0], [0, 0]]


def test_rows_are_view_major_and_one_view_needs_no_row() -> None:
    images = random_images(5, 6, 6)
    resident = ResidentImages(images, CIFAR)
    index, chosen = torch.tensor([3, 0, 4]), CIFAR.draw(0, 1, 5, ROTATIONS)
    result = resident.augment(index, chosen[:, index]).view(4, 3, 3, 6, 6)
    for row in range(4):
        for b, i in enumerate(index.tolist()):
            parts = [int(part) for part in CIFAR.parts(chosen[row, i])]
            assert torch.equal(result[row, b], literal(images[i], 4, parts))
    assert torch.equal(resident.augment(index, chosen[0, index]), result[0])


def test_the_original_is_the_image() -> None:
    images = random_images(3, 4, 7)
    resident = ResidentImages(images, CIFAR)
    assert len(resident) == 3
    assert resident.device == torch.device("cpu")
    unchanged = resident.augment(torch.tensor([2, 1]), torch.tensor([CIFAR.identity] * 2))
    assert torch.equal(unchanged, images[[2, 1]].permute(0, 3, 1, 2) / 255)


def test_images_that_are_not_square_can_be_flipped_cropped_and_turned_by_a_half() -> None:
    images, augmentation = random_images(1, 3, 5), Augmentation(pad=2, flip=True)
    resident = ResidentImages(images, augmentation)
    resident.check(ViewPlan((0, 2)))
    ids = torch.arange(augmentation.num_views)
    parts = torch.stack(augmentation.parts(ids), 1).tolist()
    for i, part in enumerate(parts):
        if part[1] % 2 == 0:
            assert torch.equal(resident.augment(torch.tensor([0]), ids[i : i + 1])[0], literal(images[0], 2, part))
        else:
            with pytest.raises(IndexError):
                resident.augment(torch.tensor([0]), ids[i : i + 1])


def test_images_that_are_not_square_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match=r"3 x 5 pixels cannot be turned by 1 quarter turns.*needs square images"):
        ResidentImages(random_images(1, 3, 5), CIFAR).check(ROTATIONS)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 4, 4, 3), torch.zeros(1, 3, 4, 4).byte(), torch.zeros(4, 4, 3).byte()]
)
def test_images_of_another_kind_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, H, W, 3\), not"):
        ResidentImages(images, CIFAR)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_gpu_makes_the_same_bits_without_waiting() -> None:
    images = random_images(256, 32, 32)
    index, chosen = order(0, 1, 256), CIFAR.draw(0, 1, 256, ROTATIONS)
    resident = ResidentImages(images, CIFAR, "cuda")
    on_gpu = index.cuda(), chosen[:, index].cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = resident.augment(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(result.cpu(), ResidentImages(images, CIFAR).augment(index, chosen[:, index]))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 50), AUGMENTATIONS, PLANS)
def test_plain_views_are_the_same_for_every_plan(
    seed: int, epoch: int, num_images: int, augmentation: Augmentation, plan: ViewPlan
) -> None:
    chosen = augmentation.draw(seed, epoch, num_images, plan)
    assert chosen.shape == (plan.num_views, num_images)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen[:1], augmentation.draw(seed, epoch, num_images, PLAIN))
    shorter = ViewPlan(plan.quarter_turns[:2])
    assert torch.equal(chosen[:2], augmentation.draw(seed, epoch, num_images, shorter))


def test_rotations_are_paired_with_the_plain_views_of_a_whole_grid() -> None:
    for seed in range(5):
        for epoch in range(1, 241):
            plain = CIFAR.draw(seed, epoch, 20, PLAIN)
            assert torch.equal(CIFAR.draw(seed, epoch, 20, ROTATIONS)[:1], plain)


@settings(deadline=None)
@given(st.integers(0, 2**31), AUGMENTATIONS, PLANS)
def test_all_views_of_an_image_share_its_flip_and_follow_the_plan(
    seed: int, augmentation: Augmentation, plan: ViewPlan
) -> None:
    flip, turns, dy, dx = augmentation.parts(augmentation.draw(seed, 1, 30, plan))
    assert torch.equal(flip, flip[:1].expand_as(flip))
    assert augmentation.flip or not flip.any()
    assert torch.equal(turns, torch.tensor(plan.quarter_turns).unsqueeze(1).expand_as(turns))
    for offset in (dy, dx):
        assert offset.min() >= 0
        assert offset.max() <= 2 * augmentation.pad


def test_order_and_views_are_pure() -> None:
    before = order(7, 3, 100), CIFAR.draw(7, 3, 100, ROTATIONS)
    torch.manual_seed(1)
    torch.rand(10)
    order(8, 3, 100)
    state = torch.get_rng_state()
    after = order(7, 3, 100), CIFAR.draw(7, 3, 100, ROTATIONS)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_every_seed_and_epoch_has_its_own_order_and_views() -> None:
    keys = [(seed, epoch) for seed in range(6) for epoch in range(1, 7)]
    assert len({tuple(order(*key, 50).tolist()) for key in keys}) == len(keys)
    assert len({tuple(CIFAR.draw(*key, 50, PLAIN)[0].tolist()) for key in keys}) == len(keys)
    assert len({tuple(row.tolist()) for row in CIFAR.parts(CIFAR.draw(0, 1, 50, ROTATIONS))[2]}) == 4


def test_the_flip_setting_and_the_pad_do_not_move_one_another() -> None:
    both, crop = CIFAR, dataclasses.replace(CIFAR, flip=False)
    flip = Augmentation(pad=0, flip=True)
    parts = both.parts(both.draw(0, 1, 100, PLAIN))
    assert torch.equal(parts[0], flip.parts(flip.draw(0, 1, 100, PLAIN))[0])
    assert torch.equal(parts[2], crop.parts(crop.draw(0, 1, 100, PLAIN))[2])


def test_an_order_visits_every_image_once() -> None:
    for num_images in (1, 2, 1000):
        assert torch.equal(order(0, 1, num_images).sort().values, torch.arange(num_images))


def test_orders_are_uniform() -> None:
    counts = torch.stack([torch.bincount(order(0, epoch, 5)[:1], minlength=5) for epoch in range(1, 2001)]).sum(0)
    assert chi_square(counts) < 18.5  # 4 degrees of freedom, p = 0.001


def test_flips_and_crops_are_uniform_and_independent() -> None:
    num_images = 100_000
    chosen = CIFAR.draw(0, 1, num_images, ViewPlan((0, 0)))
    flip, _, dy, dx = CIFAR.parts(chosen)
    assert chi_square(torch.bincount(flip[0])) < 10.8  # 1 degree of freedom, p = 0.001
    plain = torch.bincount((flip[0] * 9 + dy[0]) * 9 + dx[0], minlength=162)
    assert chi_square(plain) < 223  # 161 degrees of freedom
    between_rows = torch.bincount(dy[0] * 9 + dy[1], minlength=81)
    assert chi_square(between_rows) < 125  # 80 degrees of freedom
    following = torch.bincount(dx[0, :-1] * 9 + dx[0, 1:], minlength=81)
    assert chi_square(following) < 125


def chi_square(counts: Tensor) -> float:
    """Pearson's statistic against equal counts."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_streams_stay_what_they_are() -> None:
    """Cached teacher outputs and finished cells rest on these numbers: if they change, so do all results."""
    assert order(0, 1, 8).tolist() == [6, 0, 2, 4, 3, 1, 5, 7]
    assert CIFAR.draw(0, 1, 2, ROTATIONS).tolist() == [[342, 350], [480, 406], [513, 489], [636, 568]]
