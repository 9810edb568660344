"""FT: the student's factor follows the teacher's, the code of an autoencoder of its last feature map.

The autoencoder's encoder, a paraphraser, is trained before the student; a translator brings the student's last map to
a factor of its own. Follows RepDistiller, whose numbers the tables print, also in comparing what the factors attend to
instead of the factors.

``loss = mean |A_s / |A_s| - A_t / |A_t||`` with ``A = flatten(mean_c F_c^2)`` of a factor's channels ``F_c``

Legend: ``B`` images; maps ``(B, C, H, W)``, of two sizes the larger average-pooled to the smaller.
"""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, to_smaller_size
from kdbench.method import Batch, Paper, PhaseName, Pretraining, Reads, Setup, among, log, positive, weight
from kdbench.net import Net, Outputs

from ._connectors import images_for_norm
from ._task import PretrainedMethod, task_reads
from .at import attention


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the attentions of two factors ``(B, C, H, W)``, over images and positions."""
    student, teacher = to_smaller_size(at_least_float32(student), at_least_float32(teacher))
    return functional.l1_loss(attention(student, 2), attention(teacher, 2))


def conv_layers(channels: Sequence[int], *, transposed: bool = False, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions, or transposed ones, each with a leaky ReLU, between these numbers of channels."""
    conv = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        norm_layer = nn.BatchNorm2d(after) if norm else nn.Identity()
        layers += [conv(before, after, 3, padding=1), norm_layer, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class FT(PretrainedMethod):
    """Difference of the attentions of the student's and the teacher's factor, with KD where ``kd_weight`` is given."""

    FAMILY = "features"
    PAPER = Paper(
        "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        "Kim, Park, Kwak", "NeurIPS", 2018, "1802.04977",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "factors are compared by the channels' mean square at each position, as in RepDistiller; in the paper entry by "
        "entry",
        "the paraphraser has no batch norm and the translator has one, as in RepDistiller",
    )
    config: "Config"

    class Config(PretrainedMethod.Config):
        """Defaults: RepDistiller's for all CIFAR-100 pairs, but for the pre-training of vgg8."""

        ft_weight: float = weight(200.0, search=log(20.0, 2000.0))
        """Weight of the factors' difference."""
        paraphrase_rate: float = positive(0.5, search=among(0.5, 1.0))
        """Channels of a factor over those of the teacher's map, ``k`` of the paper."""
        init_learning_rate: float = positive(0.01)
        """Learning rate of pre-training; RepDistiller's for every CIFAR-100 pair whose student is not vgg8."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        wide, out = setup.student.shapes[-1][0], setup.teacher.shapes[-1][0]
        factor = max(1, int(self.config.paraphrase_rate * out))
        self.paraphraser = conv_layers((out, out, factor, factor))
        self.decoder = conv_layers((factor, factor, out, out), transposed=True)
        self.translator = conv_layers((wide, wide, factor, factor), norm=True)
        self.min_images = images_for_norm(setup.student.shapes[-1])

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return the teacher's stages in pre-training, and afterwards those of both networks beside the task."""
        return Reads(teacher={"stages"}) if phase == "pretraining" else cls.READS | task_reads(config)

    def pretrain(self, student: Net) -> Pretraining:
        """Return the training of the paraphraser, which stays as it is afterwards."""
        autoencoder = (self.paraphraser, self.decoder)
        rate = self.config.init_learning_rate
        return Pretraining(loss=self.pretraining_loss, train=autoencoder, freeze=autoencoder, learning_rate=rate)

    def pretraining_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the teacher's last map, reconstructed from its factor."""
        maps = teacher.stages[-1]
        rebuilt = self.decoder(self.paraphraser(maps))
        return {"reconstruction": functional.mse_loss(at_least_float32(rebuilt), at_least_float32(maps))}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        factors = self.translator(student.stages[-1]), self.paraphraser(teacher.stages[-1])
        return {"ft": self.config.ft_weight * factor_loss(*factors)}
