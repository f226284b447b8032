"""Contrastive pretraining of a small open_clip dual encoder on labelled photos."""

import math
from typing import Any

import numpy as np
import open_clip
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassAccuracy
from tqdm import tqdm

from clipshift.data.dataset import pixels_of, unit_range
from clipshift.data.photos import Photo, UnreadablePhotoError, decode
from clipshift.errors import UserError

PixelBatch = dict[str, Tensor]
"""Rows of the columns of `PixelData`."""

UNDECAYED = ("cls_token", "pos_embed", "_embedding", "token_embedding.weight")
"""Tables of vectors, which weight decay would only shrink: most tokens never occur in a prompt."""


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    weight: float = 0.7,
    temperature: float = 2.0,
) -> Tensor:
    r"""Image-to-text contrast over the *distinct* texts of the data, with distillation.

    CLIP's loss takes the other pairs of a batch for negatives, and so pushes photos of one class
    away from their own text. Here every class has one text :math:`t_c`, and a photo :math:`x_i` of
    class :math:`y_i` is contrasted with all of them:

    .. math::
        \mathrm{CE} = -\log \frac{\exp(s\, x_i \cdot t_{y_i})}{\sum_c \exp(s\, x_i \cdot t_c)}

    That is the image-to-text term of UniCL (Yang et al., 2022, arXiv:2204.03610, eq. 3), in which
    all pairs of equal label are positives, when each text is counted once. With a teacher's logits
    :math:`z` it becomes (Hinton et al., 2015, arXiv:1503.02531, section 2)

    .. math::
        (1-w)\,\mathrm{CE} + w\,T^2\,
        \mathrm{KL}(\mathrm{softmax}(z/T)\,\|\,\mathrm{softmax}(s\,x\cdot t/T))

    Args:
        images: Unit embeddings of photos, (B, D), floating point.
        texts: Unit embeddings of the class texts, (C, D), floating point.
        scale: The factor :math:`s` of the cosines, a positive scalar.
        labels: Which text belongs to each photo, (B,), int64 in [0, C).
        teacher: The teacher's logits, (B, C), or ``None`` to learn from the labels alone.
        weight: The share :math:`w` of the teacher, in [0, 1].
        temperature: :math:`T`, positive.

    Returns:
        The mean over the batch, a float32 scalar.
    """
    logits = scale.float() * images.float() @ texts.float().T  # (B, C)
    loss = F.cross_entropy(logits, labels)
    if teacher is None:
        return loss
    ours, theirs = (F.log_softmax(z / temperature, dim=1) for z in (logits, teacher.float()))
    divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return (1 - weight) * loss + weight * temperature**2 * divergence


def whole_views(pixels: Tensor) -> Tensor:
    """Photos (B, 3, H, W), uint8, as float32 in [-1, 1], channels last."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def random_views(pixels: Tensor, size: int, area: float, generator: torch.Generator) -> Tensor:
    """Cut a random square from every photo, mirror half of them, and resize.

    Args:
        pixels: Photos, (B, 3, H, W), uint8.
        size: Side of the views in pixels.
        area: The smallest share of the photo's area that a square has, in (0, 1].
        generator: Source of the draws.

    Returns:
        Views, (B, 3, size, size), float32 in [-1, 1], channels last.
    """
    draws = torch.rand(4, len(pixels), generator=generator).to(pixels.device)
    side = (area + (1 - area) * draws[0]).sqrt()
    transform = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    transform[:, 0, 0] = torch.where(draws[3] < 0.5, -side, side)
    transform[:, 1, 1] = side
    transform[:, 0, 2] = (1 - side) * (2 * draws[1] - 1)
    transform[:, 1, 2] = (1 - side) * (2 * draws[2] - 1)
    grid = F.affine_grid(transform, [len(pixels), 3, size, size], align_corners=False)
    views = F.grid_sample(whole_views(pixels), grid, padding_mode="reflection", align_corners=False)
    return views.contiguous(memory_format=torch.channels_last)


def load_pixels(photos: list[Photo], size: int) -> Tensor:
    """All photos in memory, squashed to one size: (N, 3, size, size), uint8.

    Raises:
        UserError: If one cannot be read.
    """
    pixels = np.empty((len(photos), size, size, 3), np.uint8)
    for row, photo in enumerate(tqdm(photos, desc="photos", mininterval=5)):
        try:
            image = decode(photo.read())
        except (OSError, UnreadablePhotoError) as error:
            raise UserError(f"{photo.id} cannot be read: {error}") from None
        if image.size != (size, size):
            image = image.resize((size, size))
        pixels[row] = np.asarray(image)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def seen_in_evaluation(pixels: Tensor) -> Tensor:
    """Photos as an evaluation shows them to a model: enlarged to views, and resized for its input.

    Args:
        pixels: Photos, (N, 3, S, S), uint8.

    Returns:
        The same shape, uint8: what `Encoder.embed` makes of their clean views for an input of S px,
        rounded to 8 bits.
    """
    seen = []
    for batch in tqdm(pixels.split(250), desc="views", mininterval=5):
        images = [Image.fromarray(photo) for photo in batch.permute(0, 2, 3, 1).numpy()]
        views = unit_range(torch.stack([pixels_of(image, "squash") for image in images]))
        small = F.interpolate(views, pixels.shape[2:], mode="bilinear", antialias=True)
        seen.append((small * 255).round().to(torch.uint8))
    return torch.cat(seen)


class PixelData(Dataset[PixelBatch]):
    """Decoded photos in memory.

    Args:
        columns: With a row for each photo: ``pixels``, (N, 3, H, W), uint8, ``labels``, (N,),
            int64, and, for training, ``teacher``, the teacher's logits, (N, C).
    """

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitems__(self, rows: list[int]) -> PixelBatch:
        return {name: column[rows] for name, column in self.columns.items()}


class Pretraining(pl.LightningModule):
    """Contrastive pretraining of an open_clip model on photos with class names.

    A training step draws one template, encodes the texts of all classes, and applies
    :func:`contrastive_loss` to randomly cut and mirrored photos. Validation is zero-shot top-1 of
    whole photos with a classifier that averages all templates.

    Args:
        model_cfg: open_clip's ``model_cfg``.
        classes: Class names, in the order of the labels.
        templates: Prompts with ``{}`` where the name goes.
        lr: Peak learning rate of the image tower.
        text_lr: Peak learning rate of the text tower, which starts with nearly the same embedding
            for all classes.
        weight_decay: Of the weight matrices; embeddings, norms and biases are not decayed.
        warmup: Share of the steps in which the learning rate rises linearly; then it falls to
            zero along a cosine.
        views: The phases of training, as triples (share of the epochs, side of the views in
            pixels, smallest share of a photo's area that a view shows). Small views first are
            cheaper (Tan and Le, "EfficientNetV2", 2021, arXiv:2104.00298); whole photos last,
            because enlarged cuts are blurrier than what is validated (Touvron et al., "Fixing the
            train-test resolution discrepancy", 2019, arXiv:1906.06423).
        distill: Share of the teacher in the loss.
        temperature: Of the distillation.
        seed: Decides templates, cuts and mirroring, each step for itself, so that a resumed run
            sees what an uninterrupted one sees.
    """

    def __init__(
        self,
        model_cfg: dict[str, Any],
        classes: list[str],
        templates: list[str],
        *,
        lr: float,
        text_lr: float,
        weight_decay: float,
        warmup: float,
        views: list[tuple[float, int, float]],
        distill: float,
        temperature: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = open_clip.CLIP(**model_cfg)
        self.model.visual.to(memory_format=torch.channels_last)
        tokenize = open_clip.SimpleTokenizer(context_length=self.model.context_length)
        # No buffer: the moving average would average the token numbers too.
        self.prompts = torch.stack(  # (templates, C, context)
            [tokenize([template.format(name) for name in classes]) for template in templates]
        )
        self.top1 = MulticlassAccuracy(len(classes), average="micro")

    def _phase(self) -> tuple[int, float]:
        shares, sides, areas = zip(*self.hparams["views"], strict=True)
        progress = self.current_epoch / (self.trainer.max_epochs or 1)
        phase = sum(progress >= end - 1e-9 for end in np.cumsum(shares)[:-1])
        return sides[phase], areas[phase]

    def training_step(self, batch: PixelBatch, _: int) -> Tensor:
        """The loss of one batch, under the draws of this step."""
        # Philox, because torch keeps only 32 bits of a seed.
        draw = np.random.Generator(np.random.Philox(key=[self.hparams["seed"], self.global_step]))
        generator = torch.Generator().manual_seed(int(draw.integers(2**32)))
        views = random_views(batch["pixels"], *self._phase(), generator)
        images = self.model.encode_image(views, normalize=True)
        prompts = self.prompts[draw.integers(len(self.prompts))].to(self.device)
        texts = self.model.encode_text(prompts, normalize=True)
        scale, teacher = self.model.logit_scale.exp().clamp(max=100), batch.get("teacher")
        options = {"weight": self.hparams["distill"], "temperature": self.hparams["temperature"]}
        loss = contrastive_loss(images, texts, scale, batch["labels"], teacher, **options)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.inference_mode()
    def on_validation_epoch_start(self) -> None:
        """Build the zero-shot classifier: for every class, the mean of its prompts' embeddings."""
        prompts = self.prompts.to(self.device)
        texts = torch.stack([self.model.encode_text(p, normalize=True) for p in prompts])
        self.classifier = F.normalize(texts.float().mean(dim=0), dim=1)  # (C, D)

    def validation_step(self, batch: PixelBatch, _: int) -> None:
        """Count the photos that are nearest to their own class."""
        images = self.model.encode_image(whole_views(batch["pixels"]), normalize=True)
        self.top1.update(images.float() @ self.classifier.T, batch["labels"])
        self.log("val/zero_shot_top1", self.top1, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, and a linear warm-up followed by a cosine, step by step."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, value in self.model.named_parameters():
            decayed = value.ndim >= 2 and not name.endswith(UNDECAYED)
            groups.setdefault((name.startswith("visual."), decayed), []).append(value)
        options: list[dict[str, Any]] = []
        for (visual, decayed), values in groups.items():
            lr = self.hparams["lr" if visual else "text_lr"]
            decay = self.hparams["weight_decay"] if decayed else 0.0
            options.append({"params": values, "lr": lr, "weight_decay": decay})
        optimizer = torch.optim.AdamW(options, betas=(0.9, 0.98))
        total = self.trainer.estimated_stepping_batches
        warmup = max(1, round(self.hparams["warmup"] * total))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
