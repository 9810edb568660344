"""FT: its paraphraser and its learning rates."""

from __future__ import annotations

import pytest
import torch
from recipe_files import recipes
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.method import Reads
from kdbench.methods import ft
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_ft_trains_its_paraphraser_without_the_student_and_then_freezes_it() -> None:
    student, teacher = stub_net(shapes=[(4, 8, 8)]), stub_net(shapes=[(4, 16, 16), (7, 8, 8)])
    method = ft.FT(ft.FT.Config(), stub_setup(student, teacher))
    stage = method.pretrain(student)
    assert stage.train == stage.freeze == (method.paraphraser, method.decoder)
    assert ft.FT.reads(method.config, "pretraining") == Reads(teacher={"stages"})
    assert (stage.learning_rate, stage.milestones) == (0.01, ())
    assert ft.FT.pretraining(method.config) == pytest.approx(30 / 240)
    assert ft.FT.reads(method.config, "training") == Reads({"logits", "stages"}, {"stages"})
    maps = torch.randn(5, 7, 8, 8)
    assert method.paraphraser(maps).shape == (5, 3, 8, 8)  # half of 7
    with pytest.raises(ValueError, match="at least 1 stage"):
        ft.FT(ft.FT.Config(), stub_setup(stub_net(), teacher))
    single = ft.FT(ft.FT.Config(), stub_setup(stub_net(shapes=[(4, 1, 1)]), teacher))
    pixel = Outputs("student", logits=torch.zeros(1, 10), stages=(torch.randn(1, 4, 1, 1),))
    assert (method.min_images, single.min_images) == (1, 2)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        single.loss(pixel, Outputs("teacher", stages=(maps[:1],)), stub_batch(torch.tensor([0])))


@pytest.mark.parametrize(("student", "rate"), [("resnet20", 0.01), ("MobileNetV2", 0.01), ("vgg8", 0.05)])
def test_fts_published_learning_rate_depends_on_the_student(student: str, rate: float) -> None:
    found = {
        ft.FT.Config(**recipe["settings"]).init_learning_rate
        for recipe in recipes(ft.FT)
        for pair in recipe["pairs"]
        if pair.endswith(f">{student}")
    }
    assert found == {rate}
