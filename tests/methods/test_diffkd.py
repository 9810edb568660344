"""DiffKD: noise, its removal, and what is compared."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from random_outputs import outputs, rng
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import _denoising, diffkd

pytestmark = pytest.mark.once

SHAPES = [(4, 8, 8), (6, 4, 4)]


def test_steps_with_the_true_noise_end_at_the_signal() -> None:
    """DDIM is exact where noise is predicted without an error, from any time on."""
    powers = torch.cat([_denoising.signal_powers(), torch.ones(1)]).double()
    signal, noise = maps(0), maps(1)
    for time, next_time in ((400, 300), (300, 0), (900, -1)):
        mixed, expected = (
            _denoising.noised(signal, noise, powers[torch.full((6,), each)]) for each in (time, next_time)
        )
        torch.testing.assert_close(_denoising.denoised(mixed, noise, powers[time], powers[next_time]), expected)
    torch.testing.assert_close(expected, signal)


def test_the_signals_power_falls_from_almost_all_to_almost_nothing() -> None:
    powers = _denoising.signal_powers()
    assert (powers.diff() < 0).all()
    assert powers[0].item() == pytest.approx(1 - 1e-4)
    assert powers[-1] < 1e-4


@pytest.mark.parametrize(("num_steps", "times"), [(5, [400, 300, 200, 100, 0]), (1, [0]), (2, [250, 0])])
def test_steps_begin_in_the_less_noisy_half_and_end_without_noise(num_steps: int, times: list[int]) -> None:
    steps = _denoising.Denoiser(4, 4, num_steps, of_maps=True).steps
    assert [time for time, _ in steps] == times
    assert [after for _, after in steps] == [*times[1:], -1]
    assert _denoising.Denoiser(4, 4, num_steps, of_maps=True).powers[-1] == 1


def test_times_are_drawn_for_each_image_from_all() -> None:
    times = _denoising.draw_times(torch.empty(20_000, 1), rng(0))
    assert (times.min(), times.max()) == (0, _denoising.NUM_TIMES - 1)
    assert times.float().mean().item() == pytest.approx(499.5, rel=0.02)


@pytest.mark.parametrize("kind", ["feature", "logit"])
def test_what_has_no_weight_is_neither_built_nor_read(kind: str) -> None:
    config = diffkd.DiffKD.Config(**{f"{kind}_weight": 0.0})
    net = stub_net(shapes=SHAPES)
    method = diffkd.DiffKD(config, stub_setup(net, net))
    reads = diffkd.DiffKD.all_reads(config)
    assert reads.teacher == ({"logits"} if kind == "feature" else {"stages"})
    both = (
        outputs(owner, 4).narrowed(parts) for owner, parts in (("student", reads.student), ("teacher", reads.teacher))
    )
    terms = method.loss(*both, stub_batch(torch.arange(4)))
    assert isinstance(terms, dict)
    assert not [name for name in terms if name.startswith(kind)]


def test_maps_of_two_sizes_are_compared_at_the_smaller() -> None:
    sides = stub_net(shapes=[(4, 8, 8)]), stub_net(shapes=SHAPES)
    torch.manual_seed(0)
    method = diffkd.DiffKD(diffkd.DiffKD.Config(logit_weight=0.0, code_ratio=1.5), stub_setup(*sides))
    assert method.encoder[0].out_channels == 9
    refined = []
    method.of_maps.register_forward_hook(lambda *given: refined.append(given[2].shape))
    student, teacher = outputs("student", 4), outputs("teacher", 4)
    student = type(student)("student", logits=student.logits, stages=student.stages[:1])
    method.loss(student, teacher, stub_batch(torch.arange(4)))
    assert refined == [(4, 9, 4, 4)]


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at most 500, not 501"):
        diffkd.DiffKD.Config(num_steps=501)
