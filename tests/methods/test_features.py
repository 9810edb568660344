"""Methods that compare features or predictions: one image, networks without maps, what the cache keeps."""

from __future__ import annotations

import pytest
from random_outputs import (
    batch_of,
    random_outputs,
    total,
)
from stub_nets import stub_net, stub_setup
from torch import nn

from kdbench.method import Method
from kdbench.methods import dist, fitnet, ickd, nkd, ofd, srrl, vid

pytestmark = pytest.mark.once

FEATURES: list[type[Method]] = [fitnet.FitNet, vid.VID, ofd.OFD, srrl.SRRL, ickd.ICKD]


@pytest.mark.parametrize("kind", [dist.DIST, nkd.NKD, *FEATURES])
@pytest.mark.parametrize("size", [4, 1])
def test_one_image_trains_unless_a_batch_norm_sees_one_value(kind: type[Method], size: int) -> None:
    shapes = [(4, 2 * size, 2 * size), (6, size, size)]
    net = stub_net(shapes=shapes)
    method = kind(kind.Config(), stub_setup(net, net))
    sides = random_outputs("student", *shapes, rows=1), random_outputs("teacher", *shapes, rows=1)
    norms = any(isinstance(module, nn.BatchNorm2d) for module in method.modules())
    if norms and (size == 1 or kind is srrl.SRRL):
        assert method.min_images == 2
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            method.loss(*sides, batch_of(1))
        method.eval()
    else:
        assert method.min_images == 1
    assert total(method.loss(*sides, batch_of(1))).isfinite()


@pytest.mark.parametrize("kind", [kind for kind in FEATURES if kind is not srrl.SRRL])
def test_networks_that_show_no_maps_are_refused(kind: type[Method]) -> None:
    deep = stub_net(shapes=[(4, 8, 8), (6, 4, 4)])
    for nets in ((stub_net(), deep), (deep, stub_net())):
        with pytest.raises(ValueError, match=r"choose another network|choose a teacher"):
            kind(kind.Config(), stub_setup(*nets))


@pytest.mark.parametrize("kind", [fitnet.FitNet, dist.DIST, nkd.NKD, vid.VID, ofd.OFD, srrl.SRRL, ickd.ICKD])
def test_the_cache_keeps_what_is_read(kind: type[Method]) -> None:
    """The logits are needed where the method itself or KD's divergence beside it reads them."""
    reads_logits = kind in (dist.DIST, nkd.NKD, srrl.SRRL)
    assert ("logits" in kind.all_reads(kind.Config()).teacher) is reads_logits
    with_kd = kind.all_reads(kind.Config(kd_weight=1.0))
    assert with_kd.teacher == kind.READS.teacher | {"logits"}
    assert with_kd.student == kind.READS.student | {"logits"}
