"""FitNet: teachers of any size, and the stage that it compares."""

from __future__ import annotations

import pytest
import torch
from random_outputs import batch_of, random_outputs
from stub_nets import stub_net, stub_setup

from kdbench.methods import fitnet
from kdbench.methods._connectors import SizingConnector

pytestmark = pytest.mark.once


@pytest.mark.parametrize("student", [(4, 8, 8), (4, 16, 16), (4, 4, 4), (4, 10, 9), (4, 3, 3), (4, 6, 12)])
def test_fitnet_meets_a_teacher_of_any_size(student: tuple[int, int, int]) -> None:
    """It has the teacher's size where the student's is equal, double, half or larger, else the student's."""
    teacher = (6, 8, 8)
    shape = SizingConnector(student, teacher)(torch.randn(2, *student)).shape
    assert shape == (2, *(teacher if student[1:] not in ((3, 3), (6, 12)) else (6, *student[1:])))
    assert fitnet.hint_loss(torch.ones(shape), torch.ones(2, *teacher)) == 0


def test_fitnet_refuses_a_network_without_the_stage() -> None:
    shallow, deep = stub_net(shapes=[(4, 8, 8)]), stub_net(shapes=[(4, 8, 8), (6, 4, 4)])
    with pytest.raises(ValueError, match="hint_stage"):
        fitnet.FitNet(fitnet.FitNet.Config(), stub_setup(shallow, deep))
    method = fitnet.FitNet(fitnet.FitNet.Config(hint_stage=1), stub_setup(shallow, deep))
    assert method.loss(random_outputs("student", (4, 8, 8)), random_outputs("teacher", (4, 8, 8)), batch_of(3))
