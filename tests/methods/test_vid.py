"""VID: its likelihood and its scales."""

from __future__ import annotations

import pytest
import torch
from stub_nets import stub_net, stub_setup
from torch import nn

from kdbench.methods import vid

pytestmark = pytest.mark.once


def test_vid_is_the_gaussian_log_likelihood_and_can_keep_its_scales() -> None:
    mean, goal = (torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    scale = torch.linspace(-1, 1, 4).double()
    variance = (nn.functional.softplus(scale) + 1e-5)[:, None, None]
    likelihood = torch.distributions.Normal(mean, variance.sqrt()).log_prob(goal).mean()
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(vid.vid_loss(mean, scale, goal, 1e-5), -likelihood - constant, check_dtype=False)
    net = stub_net(shapes=[(4, 8, 8)])
    fixed = vid.VID(vid.VID.Config(learn_scales=False), stub_setup(net, net))
    assert not any(scale.requires_grad for scale in fixed.log_scales)
    assert nn.functional.softplus(fixed.log_scales[0]) + 1e-5 == pytest.approx(torch.full((4,), 5.0))
    with pytest.raises(ValueError, match="initial_variance"):
        vid.VID.Config(initial_variance=1e-6)
