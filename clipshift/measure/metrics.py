"""The measures as torchmetrics metrics: running means over photos, in constant memory."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities.plot import plot_confusion_matrix

from clipshift.measure import functional
from clipshift.measure.facts import Facts


class PhotoMeasure(Metric):
    """A measure with one number per photo, averaged over photos.

    As input to ``forward`` and ``update`` the metric accepts embeddings, gazes or pixels, as its
    ``facts.space`` says:

    - ``view`` (`Tensor`): of B augmented views.
    - ``clean`` (`Tensor`): of their clean views, same shape.

    As output, ``compute`` gives the mean over all photos seen (float64 scalar; photos whose value
    is NaN are left out), and ``forward`` the B photos' own values, shape (B,).
    """

    is_differentiable = False
    full_state_update = False
    facts: ClassVar[Facts]
    measure: ClassVar[Callable[..., Tensor]]
    total: Tensor
    count: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.higher_is_better = {"higher": True, "lower": False}.get(cls.facts.better or "")
        cls.plot_lower_bound, cls.plot_upper_bound = (
            bound if math.isfinite(bound) else None for bound in (cls.facts.low, cls.facts.high)
        )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.photo_values = torch.empty(0)

    def update(self, view: Tensor, clean: Tensor) -> None:
        """Add B photos."""
        self.photo_values = type(self).measure(view, clean)
        self.total += self.photo_values.double().nansum()
        self.count += self.photo_values.isfinite().sum()

    def forward(self, view: Tensor, clean: Tensor) -> Tensor:
        """Add B photos and return their own values, shape (B,)."""
        self.update(view, clean)
        return self.photo_values

    def compute(self) -> Tensor:
        """The mean over all photos."""
        return self.total / self.count

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class CosineSimilarity(PhotoMeasure):
    """Mean `clipshift.measure.functional.cosine_similarity` of embeddings.

    Example:
        >>> metric = CosineSimilarity()
        >>> metric(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([0.6000, 1.0000], dtype=torch.float64)
        >>> metric.compute()
        tensor(0.8000, dtype=torch.float64)
    """

    facts = Facts(
        label="cosine similarity of embeddings",
        short="cosine",
        definition="cosine of the angle between the embeddings of view and clean view",
        space="embedding",
        better="higher",
        low=-1,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.cosine_similarity)


class L2Distance(PhotoMeasure):
    """Mean `clipshift.measure.functional.l2_distance` of embeddings before normalisation.

    Example:
        >>> metric = L2Distance()
        >>> metric(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([5.])
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    facts = Facts(
        label="L2 distance of embeddings",
        short="L2",
        definition="Euclidean distance of the embeddings before normalisation",
        space="embedding",
        better="lower",
        low=0,
        high=math.inf,
        unchanged=0,
    )
    measure = staticmethod(functional.l2_distance)


class AttentionSimilarity(PhotoMeasure):
    """Mean `clipshift.measure.functional.attention_similarity` of gazes.

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> metric = AttentionSimilarity()
        >>> metric(gaze, 2 * gaze)
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    facts = Facts(
        label="attention similarity",
        short="attention",
        definition="1 / (1 + mean square difference) of the two gazes, each scaled to [0, 1]",
        space="gaze",
        better="higher",
        low=0,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.attention_similarity)


class PatchSimilarity(PhotoMeasure):
    """Mean `clipshift.measure.functional.patch_similarity` of pixels.

    Example:
        >>> metric = PatchSimilarity()
        >>> metric(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
        tensor([0.5000])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    facts = Facts(
        label="patch similarity",
        short="patch",
        definition="mean over a 4 × 4 grid of 1 / (1 + mean square difference of pixels)",
        space="pixels",
        better="higher",
        low=0,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.patch_similarity)


class PatchSimilarityUint8(PhotoMeasure):
    """Mean `clipshift.measure.functional.patch_similarity_uint8`, the authors' wrapped variant.

    Example:
        >>> metric = PatchSimilarityUint8()
        >>> metric(torch.full((1, 3, 8, 8), 16 / 255), torch.zeros(1, 3, 8, 8))
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    facts = Facts(
        label="patch similarity, the paper's wrapped variant",
        short="patch (uint8)",
        definition="patch similarity of 8-bit pixels whose difference and square wrap, as in the "
        "authors' script",
        space="pixels",
        better="higher",
        low=0.996,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.patch_similarity_uint8)


class EdgePreservation(PhotoMeasure):
    """Mean `clipshift.measure.functional.edge_preservation` of pixels.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 3, 4, 4)
        >>> metric = EdgePreservation()
        >>> metric(ramp, torch.zeros(1, 3, 4, 4))
        tensor([0.])
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    facts = Facts(
        label="edge preservation",
        short="edge",
        definition="1 − mean absolute difference of the edge maps of luma",
        space="pixels",
        better="higher",
        low=0,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.edge_preservation)


class DetailPreservation(PhotoMeasure):
    """Mean `clipshift.measure.functional.detail_preservation` of pixels.

    Example:
        >>> clean = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
        >>> metric = DetailPreservation()
        >>> metric(clean / 4, clean)
        tensor([0.2500])
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    facts = Facts(
        label="detail preservation",
        short="detail",
        definition="mean over an 8 × 8 grid of exp(−|ln(σ′/σ)|), the standard deviations of luma",
        space="pixels",
        better="higher",
        low=0,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.detail_preservation)


class RMSE(PhotoMeasure):
    """Mean `clipshift.measure.functional.rmse` of pixels.

    Example:
        >>> metric = RMSE()
        >>> metric(torch.full((1, 3, 4, 4), 0.75), torch.full((1, 3, 4, 4), 0.25))
        tensor([0.5000])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    facts = Facts(
        label="RMSE of pixels",
        short="RMSE",
        definition="root mean square difference of pixels",
        space="pixels",
        better="lower",
        low=0,
        high=1,
        unchanged=0,
    )
    measure = staticmethod(functional.rmse)


class SSIM(PhotoMeasure):
    """Mean `clipshift.measure.functional.ssim` of pixels.

    Example:
        >>> clean = torch.rand(1, 3, 32, 32)
        >>> metric = SSIM()
        >>> metric(clean, clean)
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    facts = Facts(
        label="SSIM of pixels",
        short="SSIM",
        definition="structural similarity of view and clean view",
        space="pixels",
        better="higher",
        low=-1,
        high=1,
        unchanged=1,
    )
    measure = staticmethod(functional.ssim)


class GazeDivergence(PhotoMeasure):
    """Mean `clipshift.measure.functional.gaze_divergence` of gazes.

    Example:
        >>> metric = GazeDivergence()
        >>> metric(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.5]]]))
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    facts = Facts(
        label="gaze divergence",
        short="gaze divergence",
        definition="Jensen–Shannon divergence of the two gazes as distributions over patches",
        space="gaze",
        better="lower",
        low=0,
        high=1,
        unchanged=0,
        unit="bits",
    )
    measure = staticmethod(functional.gaze_divergence)


class GazeEntropyChange(PhotoMeasure):
    """Mean `clipshift.measure.functional.gaze_entropy_change` of gazes.

    Example:
        >>> metric = GazeEntropyChange()
        >>> metric(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]]))
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    facts = Facts(
        label="change of gaze entropy",
        short="gaze entropy",
        definition="entropy of the gaze on the view minus that on the clean view: above 0 "
        "scattered, below 0 focused",
        space="gaze",
        better="nearer 0",
        low=-math.inf,
        high=math.inf,
        unchanged=0,
        unit="bits",
    )
    measure = staticmethod(functional.gaze_entropy_change)


class CleanSpread(Metric):
    r"""Mean :math:`1 - \cos` between *different* clean photos: the unit of the relative shift.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``clean`` (`Tensor`): embeddings of B clean views, shape (B, D).

    As output, ``compute`` gives the mean over all pairs of photos seen, a float64 scalar in [0, 2],
    NaN where the encoder makes no difference between them. Embeddings without a direction (zero, or
    not finite) do not count. It keeps one running sum of directions, in steps of 2⁻⁴⁰: sums of
    integers are the same in any order, for up to 8 million photos.

    Args:
        width: D.

    Example:
        >>> metric = CleanSpread(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False
    steps = 2**40
    direction: Tensor
    count: Tensor

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(width, dtype=torch.long)
        self.add_state("direction", zeros, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, clean: Tensor) -> None:
        """Add B photos."""
        known = clean[clean.isfinite().all(dim=-1) & clean.any(dim=-1)]
        units = normalize(known.double(), dim=-1)
        self.direction += (units * self.steps).round().long().sum(dim=0)
        self.count += len(known)

    def compute(self) -> Tensor:
        """The mean over all pairs of different photos."""
        return functional.spread_of(self.direction.double() / self.steps, self.count)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class LayerShift(Metric):
    """How far one layer's tokens shift under K variants: class-token cosine, and linear CKA.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``views`` (`Tensor`): of B photos under K variants, shape (K, B, 2, width): class token (NaN
      where the tower has none) and mean patch token.
    - ``clean`` (`Tensor`): of their clean views, shape (B, 2, width).

    As output, ``compute`` gives a dictionary of float64 tensors of shape (K,):

    - ``cosine``: mean cosine of the class tokens, and ``cosine_error``, its standard error;
    - ``cka``: `clipshift.measure.functional.linear_cka` of the mean patch tokens over the photos.

    It keeps running sums: 2K + 1 matrices of width × width.

    Args:
        variants: K.
        width: Of the layer's tokens.

    Example:
        >>> clean = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
        >>> metric = LayerShift(variants=1, width=2)
        >>> metric.update(2 * clean[None], clean)
        >>> {name: round(float(value), 6) for name, value in metric.compute().items()}
        {'cosine': 1.0, 'cosine_error': 0.0, 'cka': 1.0}
    """

    is_differentiable = False
    full_state_update = False
    count: Tensor
    cosine: Tensor
    cosine_square: Tensor
    sum_x: Tensor
    sum_y: Tensor
    xx: Tensor
    yy: Tensor
    yx: Tensor

    def __init__(self, variants: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shapes = {
            "cosine": (variants,),
            "cosine_square": (variants,),
            "sum_x": (width,),
            "sum_y": (variants, width),
            "xx": (width, width),
            "yy": (variants, width, width),
            "yx": (variants, width, width),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, views: Tensor, clean: Tensor) -> None:
        """Add B photos."""
        cosine = torch.cosine_similarity(views[:, :, 0].double(), clean[:, 0].double(), dim=-1)
        self.cosine += cosine.sum(dim=1)
        self.cosine_square += cosine.square().sum(dim=1)
        x, y = clean[:, 1].double(), views[:, :, 1].double()  # (B, width), (K, B, width)
        self.sum_x += x.sum(dim=0)
        self.sum_y += y.sum(dim=1)
        self.xx += x.T @ x
        self.yy += y.mT @ y
        self.yx += y.mT @ x
        self.count += len(clean)

    def compute(self) -> dict[str, Tensor]:
        """Cosine, its standard error, and CKA, over all photos."""
        n = self.count
        mean = self.cosine / n
        variance = (self.cosine_square / n - mean.square()).clamp(min=0) * n / (n - 1)
        cka = functional.cka_of(
            self.xx - self.sum_x.outer(self.sum_x) / n,
            self.yy - self.sum_y[:, :, None] * self.sum_y[:, None] / n,
            self.yx - self.sum_y[:, :, None] * self.sum_x / n,
        )
        return {"cosine": mean, "cosine_error": (variance / n).sqrt(), "cka": cka}


class AugmentationDistance(Metric):
    """`clipshift.measure.functional.augmentation_distance` over photos that arrive in batches.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``embeddings`` (`Tensor`): of B photos under K augmentations, shape (K, B, D).

    As output, ``compute`` gives the mean distance over all photos, float64, shape (K, K). It leaves
    half the width of the mean's normal 95 % interval in ``half_width``, same shape.

    Args:
        names: The K augmentations.

    Example:
        >>> metric = AugmentationDistance(["noise", "blur"])
        >>> metric.update(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> metric.compute()
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = list(names)
        size = len(self.names)
        total = torch.zeros(size, size, dtype=torch.float64)
        self.add_state("total", total, dist_reduce_fx="sum")
        self.add_state("squares", total.clone(), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.half_width = torch.full_like(total, torch.nan)

    def update(self, embeddings: Tensor) -> None:
        """Add B photos."""
        distances = functional.pairwise_distances(embeddings)
        self.total += distances.sum(dim=0)
        self.squares += distances.square().sum(dim=0)
        self.count += embeddings.shape[1]

    def compute(self) -> Tensor:
        """The mean distance over all photos."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean.square()).clamp(min=0) / (self.count - 1)
        self.half_width = 1.96 * (variance / self.count).sqrt()
        return mean

    def plot(self, val: Tensor | None = None, ax: Any = None) -> Any:
        """Plot the matrix as a heatmap; see `torchmetrics.Metric.plot`."""
        matrix = self.compute() if val is None else val
        return plot_confusion_matrix(matrix, ax=ax, labels=self.names)
