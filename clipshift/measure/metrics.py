"""The measures as torchmetrics metrics: running means over photos, in constant memory."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.plot import plot_confusion_matrix

from clipshift.measure import functional

Space = Literal["embedding", "gaze", "aligned gaze", "pixels"]
COLLAPSED = 1e-6
"""A layer whose tokens' mean squared distance from their mean is below this share of that mean's
squared length is the same for all photos: what is left is lost in the rounding of running sums."""


class PhotoMeasure(Metric):
    """A measure with one number a photo, averaged over photos.

    As input to ``forward`` and ``update`` the metric accepts what its ``space`` says (embeddings,
    gazes or pixels):

    - ``view`` (`Tensor`): of B augmented views.
    - ``clean`` (`Tensor`): of their clean views, same shape.
    - ``move_back`` (callable or None): in the space ``aligned gaze`` alone; see
      `clipshift.measure.functional.MoveBack`.

    As output, ``compute`` gives the mean over all photos seen (float64 scalar; photos whose value
    is NaN are left out), and ``forward`` the B photos' own values, shape (B,).
    """

    is_differentiable = False
    full_state_update = False
    space: ClassVar[Space]
    measure: ClassVar[Callable[..., Tensor]]
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.photo_values = torch.empty(0)

    def update(self, view: Tensor, clean: Tensor, *move_back: functional.MoveBack | None) -> None:
        """Add B photos."""
        self.photo_values = type(self).measure(view, clean, *move_back)
        self.total += self.photo_values.double().nansum()
        self.count += self.photo_values.isfinite().sum()

    def forward(
        self, view: Tensor, clean: Tensor, *move_back: functional.MoveBack | None
    ) -> Tensor:
        """Add B photos and return their own values, shape (B,)."""
        self.update(view, clean, *move_back)
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

    space = "embedding"
    higher_is_better = True
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

    space = "embedding"
    higher_is_better = False
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

    space = "gaze"
    higher_is_better = True
    measure = staticmethod(functional.attention_similarity)


class AttentionSimilarityAligned(PhotoMeasure):
    """Mean `clipshift.measure.functional.attention_similarity_aligned` of gazes.

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> metric = AttentionSimilarityAligned()
        >>> metric(gaze.flip(-1), gaze, lambda maps: maps.flip(-1))
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    space = "aligned gaze"
    higher_is_better = True
    measure = staticmethod(functional.attention_similarity_aligned)


class PatchSimilarity(PhotoMeasure):
    """Mean `clipshift.measure.functional.patch_similarity` of pixels.

    Example:
        >>> metric = PatchSimilarity()
        >>> metric(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
        tensor([0.5000])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    space = "pixels"
    higher_is_better = True
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

    space = "pixels"
    higher_is_better = True
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

    space = "pixels"
    higher_is_better = True
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

    space = "pixels"
    higher_is_better = True
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

    space = "pixels"
    higher_is_better = False
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

    space = "pixels"
    higher_is_better = True
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

    space = "gaze"
    higher_is_better = False
    measure = staticmethod(functional.gaze_divergence)


class GazeDivergenceAligned(PhotoMeasure):
    """Mean `clipshift.measure.functional.gaze_divergence_aligned` of gazes.

    Example:
        >>> gaze = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        >>> metric = GazeDivergenceAligned()
        >>> metric(gaze.flip(-1), gaze, lambda maps: maps.flip(-1))
        tensor([0.])
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    space = "aligned gaze"
    higher_is_better = False
    measure = staticmethod(functional.gaze_divergence_aligned)


class GazeEntropyChange(PhotoMeasure):
    """Mean `clipshift.measure.functional.gaze_entropy_change` of gazes.

    Example:
        >>> metric = GazeEntropyChange()
        >>> metric(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]]))
        tensor([1.])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    space = "gaze"
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
        units = functional.unit(clean[functional.directed(clean)])
        self.direction += (units * self.steps).round().long().sum(dim=0)
        self.count += len(units)

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

    - ``cosine``: mean cosine of the class tokens, and ``cosine_error``, its standard error; photos
      without one are left out;
    - ``cka``: `clipshift.measure.functional.linear_cka` of the mean patch tokens over the photos,
      and ``cka_biased``: `clipshift.measure.functional.linear_cka_biased`. NaN if a token is not
      finite.

    It keeps running sums: 2K + 1 matrices of (width + 2) × (width + 2).

    Args:
        variants: K.
        width: Of the layer's tokens.

    Example:
        >>> patches = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 1.0]])
        >>> clean = torch.stack([patches, patches], dim=1)
        >>> metric = LayerShift(variants=1, width=2)
        >>> metric.update(2 * clean[None], clean)
        >>> {name: round(float(value), 6) for name, value in metric.compute().items()}
        {'cosine': 1.0, 'cosine_error': 0.0, 'cka': 1.0, 'cka_biased': 1.0}
    """

    is_differentiable = False
    full_state_update = False
    cosine: Tensor
    cosine_square: Tensor
    cosine_count: Tensor
    xx: Tensor
    yy: Tensor
    yx: Tensor

    def __init__(self, variants: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shapes = {
            "cosine": (variants,),
            "cosine_square": (variants,),
            "cosine_count": (variants,),
            "xx": (width + 2, width + 2),
            "yy": (variants, width + 2, width + 2),
            "yx": (variants, width + 2, width + 2),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, views: Tensor, clean: Tensor) -> None:
        """Add B photos."""
        cosine = functional.cosine_similarity(views[:, :, 0], clean[:, 0])
        self.cosine += cosine.nansum(dim=1)
        self.cosine_square += cosine.square().nansum(dim=1)
        self.cosine_count += cosine.isfinite().sum(dim=1)
        x, y = self._extended(clean[:, 1]), self._extended(views[:, :, 1])
        self.xx += x.T @ x
        self.yy += y.mT @ y
        self.yx += y.mT @ x

    def compute(self) -> dict[str, Tensor]:
        """Cosine, its standard error, and both CKA, over all photos."""
        n = self.cosine_count
        cosine = self.cosine / n
        variance = (self.cosine_square / n - cosine.square()).clamp(min=0) * n / (n - 1)
        count = self.xx[-1, -1]
        mean_x, mean_y = self.xx[-1, :-2] / count, self.yy[:, -1, :-2] / count
        xx, aa = self._centred(self.xx, mean_x, mean_x)
        yy, bb = self._centred(self.yy, mean_y, mean_y)
        yx, ab = self._centred(self.yx, mean_y, mean_x)
        varies_x, varies_y = (
            torch.einsum("...ii->...", products) > COLLAPSED * count * mean.square().sum(dim=-1)
            for products, mean in ((xx, mean_x), (yy, mean_y))
        )
        known = varies_x & varies_y
        cka = functional.debiased_cka_of(xx, yy, yx, aa, bb, ab, count)
        biased = functional.biased_cka_of(xx, yy, yx)
        return {
            "cosine": cosine,
            "cosine_error": (variance / n).sqrt(),
            "cka": cka.where(known, torch.nan),
            "cka_biased": biased.where(known, torch.nan),
        }

    @staticmethod
    def _extended(tokens: Tensor) -> Tensor:
        """Tokens with their squared length and 1 behind, so that products hold all other sums."""
        tokens = tokens.double()
        square = tokens.square().sum(dim=-1, keepdim=True)
        return torch.cat([tokens, square, torch.ones_like(square)], dim=-1)

    @staticmethod
    def _centred(sums: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """From sums of products of extended tokens and their means: the same of centred tokens.

        Returns:
            The sums of their products, and the sum of the products of their squared lengths.
        """
        count = sums[..., -1:, -1:]
        products = sums[..., :-2, :-2] - count * left[..., :, None] * right[..., None, :]
        # |x − m|² = |x|² − 2 m·x + |m|², which is linear in an extended token
        left, right = (
            torch.cat([-2 * m, torch.ones_like(m[..., :1]), m.square().sum(-1, True)], dim=-1)
            for m in (left, right)
        )
        return products, torch.einsum("...i,...ij,...j->...", left, sums, right)


class AugmentationDistance(Metric):
    """`clipshift.measure.functional.augmentation_distance` over photos that arrive in batches.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``embeddings`` (`Tensor`): of B photos under K augmentations, shape (K, B, D).

    As output, ``compute`` gives the mean distance over all photos, float64, shape (K, K); photos
    whose distance is NaN are left out. It leaves half the width of the mean's normal 95 % interval
    in ``half_width``, same shape.

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
        self.add_state("count", torch.zeros_like(total), dist_reduce_fx="sum")
        self.half_width = torch.full_like(total, torch.nan)

    def update(self, embeddings: Tensor) -> None:
        """Add B photos."""
        distances = functional.pairwise_distances(embeddings)
        self.total += distances.nansum(dim=0)
        self.squares += distances.square().nansum(dim=0)
        self.count += distances.isfinite().sum(dim=0)

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
