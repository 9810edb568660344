"""SDD: the regions of a map and their weights."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from stub_nets import stub_net, stub_setup

from kdbench.methods import nkd, sdkd, sdnkd
from kdbench.methods._regions import region_logits, region_weights, regions
from kdbench.net import Outputs

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("finest", "num"), [(2, 5), (4, 21)])
def test_regions_are_the_whole_its_quarters_and_their_quarters(finest: int, num: int) -> None:
    features = maps(0, size=8)
    cells = regions(features, finest)
    assert cells.shape == (6, num, 5)
    torch.testing.assert_close(cells[:, 0], features.mean(dim=(2, 3)))
    torch.testing.assert_close(cells[:, 1:5].mean(dim=1), cells[:, 0])
    torch.testing.assert_close(cells[:, 2], features[:, :, :4, 4:].mean(dim=(2, 3)))
    if finest == 4:
        torch.testing.assert_close(cells[:, 5 + 4], features[:, :, 2:4, :2].mean(dim=(2, 3)))


def test_maps_smaller_than_the_cells_are_repeated() -> None:
    features = maps(0, size=2)
    cells = regions(features, 4)
    torch.testing.assert_close(cells[:, 1:5], features.flatten(2).mT)
    torch.testing.assert_close(cells[:, 5 + 3], features[:, :, 0, 1])


def test_a_region_counts_twice_where_the_teacher_is_right_of_one_alone() -> None:
    labels = torch.tensor([0, 1])
    predictions = torch.tensor([[0, 0, 1], [0, 1, 2]])
    logits = torch.nn.functional.one_hot(predictions, 3).double()
    assert region_weights(logits, labels).tolist() == [[1, 1, 2], [1, 2, 1]]


def test_a_classifier_may_have_no_bias() -> None:
    features, weight = maps(0), maps(1)[:, :, 0, 0]
    bare = region_logits(Outputs("student", map=features, weight=weight), 2)
    biased = region_logits(Outputs("student", map=features, weight=weight, bias=torch.ones(6).double()), 2)
    torch.testing.assert_close(biased, bare + 1)
    torch.testing.assert_close(bare[:, 0], features.mean(dim=(2, 3)) @ weight.T)


def test_the_soft_cross_entropy_counts_the_target_as_well() -> None:
    student, teacher = (3 * maps(seed, size=7)[0, :, 0] for seed in range(2))
    targets = torch.arange(5)
    soft = sdnkd.soft_cross_entropy(student, teacher, 2.0)
    torch.testing.assert_close(
        soft, 4 * torch.nn.functional.cross_entropy(student / 2, (teacher / 2).softmax(1), reduction="none")
    )
    assert not torch.isclose(soft.mean(), nkd.others_loss(student, teacher, targets, 2.0))


def test_networks_whose_classifier_sees_no_map_are_refused() -> None:
    with pytest.raises(ValueError, match="does not see the mean of a feature map: choose another student"):
        sdkd.SDKD(sdkd.SDKD.Config(), stub_setup(stub_net(), stub_net(width=5, shapes=[(5, 4, 4)])))
