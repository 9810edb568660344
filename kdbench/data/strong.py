"""placeholder"""

import torch
from torch import Tensor


def strongly_augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    return 255 - images
