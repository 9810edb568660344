"""SmallNet: three convolutions and a linear classifier."""

from torch import Tensor, nn


def block(in_channels: int, channels: int) -> nn.Sequential:
    """Map ``(B, C_in, H, W)`` to ``(B, C, H / 2, W / 2)``."""
    convolution = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


class SmallNet(nn.Module):
    """Normalised images in, logits out."""

    VERSION = 1
    STAGES = "blocks.0", "blocks.1", "blocks.2"  # the modules whose outputs are the feature maps

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(3, 8), block(8, 16), block(16, 32))
        self.classifier = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)`` of images ``(B, 3, H, W)``."""
        return self.classifier(self.blocks(images).mean((2, 3)))
