"""A fused network says what the network says, with fewer batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.models import NETWORKS, build_backbone
from kdbench.models.fuse import fused
from kdbench.net import PARTS, Backbone, Features, Net

TIMM = ("timm:test_resnet", "timm:test_efficientnet", "timm:test_vit")


def count(net: nn.Module) -> int:
    return sum(type(module) is nn.BatchNorm2d for module in net.modules())


def lively(net: Net) -> Net:
    """Give batch norms statistics as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


@pytest.mark.parametrize("name", [*NETWORKS, *TIMM])
def test_every_part_is_equal(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 10, (32, 32))
    net = lively(Net(name, backbone, mean=(0.5,) * 3, std=(0.3,) * 3, image_size=(32, 32)).double())
    made = fused(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    reads = PARTS - net.absent.keys()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = made(images, reads), net(images, reads)
    for part in reads:
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(p.requires_grad for p in made.parameters())
    # Wide networks normalise sums, which are no convolution's output.
    assert count(made) == 0 or ("wrn" in name and count(made) < count(net))


class Shared(Backbone):
    """A convolution whose output is normalised, and also read as it is, in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.bn, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def features(self, images: torch.Tensor, *, maps: bool) -> Features:
        x = self.conv(images)
        out = self.bn(x)
        stages: tuple[torch.Tensor, ...] = (out,)
        if self.how == "added":
            out = out + x
        elif self.how == "shown":
            stages = (x, out)
        elif self.how == "twice":
            out = out + self.other(x)
        elif self.how == "again":
            out = out + self.conv(2 * images)
        elif self.how == "listed":
            out = torch.cat([out, x]).unflatten(0, (2, -1)).sum(0)
        return Features(out.mean((2, 3)), stages, None, None)

    def head(self) -> nn.Linear:
        return self.fc


@pytest.mark.parametrize(
    ("how", "norms"), [("plain", 1), ("added", 2), ("shown", 2), ("twice", 2), ("again", 2), ("listed", 2)]
)
def test_an_output_that_is_read_elsewhere_is_left_alone(how: str, norms: int) -> None:
    torch.manual_seed(0)
    net = lively(Net("shared", Shared(how), mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(6, 6)).double())
    made = fused(net)
    assert count(made) == norms
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(made.logits(images), net.logits(images), rtol=1e-9, atol=1e-9)


class Peeking(Shared):
    """Reads its batch norm's scale by itself: without the batch norm it could not run."""

    def features(self, images: torch.Tensor, *, maps: bool) -> Features:
        found = super().features(images, maps=maps)
        return Features(found.penultimate * self.bn.weight.mean(), found.stages, None, None)


def test_a_network_that_reads_its_layers_in_its_own_way_is_left_alone() -> None:
    torch.manual_seed(0)
    net = lively(Net("peeking", Peeking("plain"), mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(6, 6)))
    made = fused(net)
    assert count(made) == 2
    images = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(made.logits(images), net.logits(images))
