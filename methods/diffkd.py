"""DiffKD: the student's features are taken for noisy ones of the teacher, and denoised before they are compared.

A small diffusion model learns, in the same step, to predict the noise that was mixed into the teacher's features. The
student's, mixed with noise at a level that is learnt for each image, go through a few of its denoising steps (DDIM),
and what comes out is compared with the teacher's: maps by their squared error, logits by the KL divergence.

Follows the authors' code: gradients reach the diffusion model from both sides, the shares of feature and noise add up
to 1 (not their squares), and batch norms of the model see student and teacher.

Legend: ``B`` images, ``K`` classes; maps ``(B, C, H, W)``.
"""

from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, to_smaller_size
from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    PhaseName,
    Reads,
    Setup,
    count,
    log,
    positive,
    temperature,
    weight,
)

from ._connectors import images_for_norm
from ._denoising import Denoiser
from .kd import kl_per_image


def map_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared error of maps ``(B, C, H, W)`` over all elements."""
    return functional.mse_loss(at_least_float32(ours), at_least_float32(theirs))


class DiffKD(Method):
    """Cross entropy, and denoised maps and logits against the teacher's."""

    FAMILY = "features"
    PAPER = Paper(
        "Knowledge Diffusion for Distillation",
        "Huang, Zhang, Zheng, You, Wang, Qian, Xu", "NeurIPS", 2023, "2305.15712",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"logits", "stages"}, teacher={"logits", "stages"})
    DEVIATIONS = (
        "shares of feature and noise add up to 1, as in the authors' code; in a diffusion their squares do",
        "of maps of two sizes the larger is average-pooled to the smaller; the authors' pairs have equal ones",
        "batch norms of the diffusion model see the student in each denoising step, and the teacher, as in the "
        "authors' code",
    )
    OURS = {
        "code_ratio": "half of the teacher's channels, what the authors' code takes where no number is given; "
        "published is 1,024 channels on ImageNet, and nothing for CIFAR-100",
    }
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' for ImageNet."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        feature_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the terms of the last map; 0 for logits alone."""
        logit_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the terms of the logits; 0 for the map alone."""
        temperature: float = temperature(1.0, search=log(1.0, 10.0))
        """Of the KL divergence, which includes its square."""
        num_steps: int = count(5)
        """Denoising steps, at most 500."""
        autoencoder: bool = True
        """Compare codes of the teacher's map, which an autoencoder learns beside, instead of the map itself."""
        code_ratio: float = positive(0.5)
        """Channels of the code over those of the teacher's map."""

        def check(self) -> None:
            if self.num_steps > 500:
                raise ValueError(f"num_steps must be at most 500, not {self.num_steps}")

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if self.config.feature_weight > 0:
            ours, theirs = setup.student.shapes[-1], setup.teacher.shapes[-1]
            channels = theirs[0]
            if self.config.autoencoder:
                channels = max(round(self.config.code_ratio * theirs[0]), 1)
                self.encoder = nn.Sequential(nn.Conv2d(theirs[0], channels, 1), nn.BatchNorm2d(channels))
                self.decoder = nn.Conv2d(channels, theirs[0], 1)
            self.of_maps = Denoiser(ours[0], channels, self.config.num_steps, of_maps=True)
            self.min_images = images_for_norm((channels, min(ours[1], theirs[1]), min(ours[2], theirs[2])))
        if self.config.logit_weight > 0:
            classes = setup.student.num_classes
            self.of_logits = Denoiser(classes, classes, self.config.num_steps, of_maps=False)
            self.min_images = 2

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return the parts whose terms have a weight, and the student's logits."""
        stages, logits = Reads({"stages"}, {"stages"}), Reads({"logits"}, {"logits"})
        own = Reads(student={"logits"})
        return own | (stages if config.feature_weight > 0 else own) | (logits if config.logit_weight > 0 else own)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; those of weight 0 are not computed."""
        config, terms = self.config, {}
        terms["ce"] = config.ce_weight * batch.cross_entropy(student.logits).mean()
        if config.feature_weight > 0:
            ours, theirs = to_smaller_size(student.stages[-1], at_least_float32(teacher.stages[-1]))
            if config.autoencoder:
                code = self.encoder(theirs)
                terms["reconstruction"] = config.feature_weight * map_error(self.decoder(code), theirs)
                theirs = at_least_float32(code.detach())
            refined = self.of_maps(ours, batch.generator)
            terms["feature"] = config.feature_weight * map_error(refined, theirs)
            terms["feature_noise"] = config.feature_weight * self.of_maps.noise_error(theirs, batch.generator)
        if config.logit_weight > 0:
            goal = at_least_float32(teacher.logits)
            refined = self.of_logits(student.logits[:, :, None, None], batch.generator).flatten(1)
            terms["logit"] = config.logit_weight * kl_per_image(refined, goal, config.temperature).mean()
            noise_error = self.of_logits.noise_error(goal[:, :, None, None], batch.generator)
            terms["logit_noise"] = config.logit_weight * noise_error
        return terms
