"""The measures as torchmetrics metrics: running means over photos, in constant memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.plot import plot_confusion_matrix

from clipshift.measure import functional
from clipshift.measure.facts import Facts, distance, similarity

Shapes = Mapping[str, tuple[int, ...]]
COLLAPSED = 1e-6
"""Tokens count as the same for all photos where their mean squared distance from their mean is
below this share of that mean's squared length: running sums round off what is smaller."""


class RunningSums(Metric):
    """Base of metrics that add up sums over photos, over processes too.

    Args:
        sums: Shapes of the float64 sums, by name.
        counts: Shapes of the int64 sums, by name.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, sums: Shapes, counts: Shapes, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for shapes, dtype in ((sums, torch.float64), (counts, torch.long)):
            for name, shape in shapes.items():
                self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")
        self.photo_values = torch.empty(0)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class PhotoMean(RunningSums):
    """Base of metrics that average values per photo, leaving out those that are NaN.

    ``forward`` returns the photos' values, and ``compute`` their mean over all photos, float64.

    Args:
        shape: Shape of the mean.
    """

    total: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__({"total": shape}, {"count": shape}, **kwargs)

    def add_photos(self, values: Tensor, dim: int = 0) -> None:
        """Add the values of B photos, which lie along a dimension."""
        self.photo_values = values
        self.total += values.double().nansum(dim=dim)
        self.count += values.isfinite().sum(dim=dim)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Add B photos and return their values."""
        self.update(*args, **kwargs)
        return self.photo_values

    def compute(self) -> Any:
        """The mean over all photos."""
        return self.total / self.count


class PhotoMeasure(PhotoMean):
    """A measure with one number per photo, averaged over photos.

    As input to ``forward`` and ``update`` the metric accepts embeddings, gazes or pixels, depending
    on its ``facts.space``:

    - ``view`` (`Tensor`): those of B augmented views.
    - ``clean`` (`Tensor`): those of their clean views, same shape.
    - ``geometry``: only in the space ``aligned gaze``, a `clipshift.measure.functional.MoveBack` or
      None, and the side of the views in pixels.

    As output, ``compute`` gives the mean over all photos seen (float64 scalar; photos whose value
    is NaN are left out), and ``forward`` the values of the B photos, shape (B,).

    A subclass has its ``facts`` and its ``measure``, a function.
    """

    facts: Facts
    measure: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "facts"):
            return  # each instance has its own, as those of `MetricPerPhoto`
        cls.higher_is_better = {"higher": True, "lower": False}.get(cls.facts.better or "")
        cls.plot_lower_bound, cls.plot_upper_bound = (
            bound if math.isfinite(bound) else None for bound in (cls.facts.low, cls.facts.high)
        )

    def prepare(self, clean: Tensor) -> Any:
        """Precompute what the measure needs of clean views, once for many views of the same."""
        return getattr(self.measure, "prepare", lambda clean: clean)(clean)

    def update(
        self, view: Tensor, clean: Tensor, *geometry: functional.MoveBack | int | None
    ) -> None:
        """Add B photos."""
        self.add_photos(self.measure(view, clean, *geometry))


class CosineSimilarity(PhotoMeasure):
    """Mean `clipshift.measure.functional.cosine_similarity` of embeddings.

    Example:
        >>> metric = CosineSimilarity()
        >>> metric(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([0.6000, 1.0000], dtype=torch.float64)
        >>> metric.compute()
        tensor(0.8000, dtype=torch.float64)
    """

    facts = similarity(
        label="cosine similarity of embeddings",
        short="cosine",
        definition="cosine of the angle between the embeddings of view and clean view",
        space="embedding",
        low=-1,
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

    facts = distance(
        label="L2 distance of embeddings",
        short="L2",
        definition="Euclidean distance of the embeddings before normalisation",
        space="embedding",
        high=math.inf,
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

    facts = similarity(
        label="attention similarity",
        short="attention",
        definition="1 / (1 + mean square difference) of the two gazes, each scaled to [0, 1]",
        space="gaze",
    )
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

    facts = similarity(
        label="aligned attention similarity",
        short="aligned attention",
        definition="attention similarity with the view's gaze moved back to where the pixels came "
        "from; pixels that left the view are left out",
        space="aligned gaze",
    )
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

    facts = similarity(
        label="patch similarity",
        short="patch",
        definition="mean over a 4 × 4 grid of 1 / (1 + mean square difference of pixels)",
        space="pixels",
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

    facts = similarity(
        label="patch similarity, the paper's wrapped variant",
        short="patch (uint8)",
        definition="patch similarity of 8-bit pixels whose difference and square wrap, as in the "
        "authors' script",
        space="pixels",
        low=0.996,
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

    facts = similarity(
        label="edge preservation",
        short="edge",
        definition="1 − mean absolute difference of the edge maps of luma",
        space="pixels",
        correlate="edge_loss",
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

    facts = similarity(
        label="detail preservation",
        short="detail",
        definition="mean over an 8 × 8 grid of exp(−|ln(σ′/σ)|), the standard deviations of luma",
        space="pixels",
        correlate="detail_loss",
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

    facts = distance(
        label="RMSE of pixels",
        short="RMSE",
        definition="root mean square difference of pixels",
        space="pixels",
        correlate="rmse",
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

    facts = similarity(
        label="SSIM of pixels",
        short="SSIM",
        definition="structural similarity of view and clean view",
        space="pixels",
        low=-1,
        correlate="ssim_loss",
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

    facts = distance(
        label="gaze divergence",
        short="gaze divergence",
        definition="Jensen–Shannon divergence of the two gazes as distributions over patches; it "
        "counts pixels that moved as a change",
        space="gaze",
        unit="bits",
        correlate="gaze_divergence",
    )
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

    facts = distance(
        label="aligned gaze divergence",
        short="aligned divergence",
        definition="gaze divergence with the view's gaze moved back to where the pixels came from: "
        "whether the model looks elsewhere; pixels that left the view are left out",
        space="aligned gaze",
        unit="bits",
        correlate="gaze_divergence_aligned",
    )
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


class CleanSpread(RunningSums):
    r"""Mean :math:`1 - \cos` between *different* clean photos: the unit of the relative shift.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``clean`` (`Tensor`): embeddings of B clean views, shape (B, D).

    As output, ``compute`` gives the mean over all pairs of photos seen, a float64 scalar in [0, 2],
    NaN where all photos have the same embedding. Embeddings without a direction (zero, or not
    finite) do not count. The metric keeps one running sum of directions, in steps of 2⁻⁴⁰: sums of
    integers are the same in any order, for up to 8 million photos.

    Args:
        width: D.

    Example:
        >>> metric = CleanSpread(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
        >>> metric.distance_to_others(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([1., 1.], dtype=torch.float64)
    """

    steps = 2**40
    direction: Tensor
    count: Tensor

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__({}, {"direction": (width,), "count": ()}, **kwargs)

    def update(self, clean: Tensor) -> None:
        """Add B photos."""
        units = functional.unit(clean[functional.has_direction(clean)])
        self.direction += self.in_steps(units).sum(dim=0)
        self.count += len(units)

    @classmethod
    def in_steps(cls, units: Tensor) -> Tensor:
        """Unit vectors as whole numbers of steps, int64."""
        return (units * cls.steps).round().long()

    def compute(self) -> Tensor:
        """The mean over all pairs of different photos."""
        return functional.spread_of(self.direction.double() / self.steps, self.count)

    def distance_to_others(self, clean: Tensor) -> Tensor:
        r"""Mean :math:`1 - \cos` of photos to all others; its mean is the value of ``compute``.

        Args:
            clean: Embeddings of B of the photos seen, shape (B, D).

        Returns:
            float64, shape (B,), in [0, 2]; NaN for embeddings without a direction.
        """
        units = functional.unit(clean)
        others = self.direction.double() / self.steps - units
        return 1 - (units * others).sum(dim=-1) / (self.count - 1)


class LayerShift(RunningSums):
    """Shift of one layer's tokens under K variants: cosines, and linear CKA.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``views`` (`Tensor`): of B photos under K variants, shape (K, B, 2, width): class token (NaN
      where the tower has none) and mean patch token.
    - ``clean`` (`Tensor`): of their clean views, shape (B, 2, width).

    As output, ``forward`` gives each photo's cosines of class token and mean patch token, float64,
    shape (K, B, 2), and ``compute`` a dictionary of float64 tensors of shape (K,):

    - ``cosine``: mean cosine of the class tokens, and ``patch_cosine``: of the mean patch tokens;
      photos without one are left out;
    - ``spread``: of shape (), mean 1 − cosine between the class tokens of different clean photos
      (`CleanSpread`);
    - ``cka``: `clipshift.measure.functional.linear_cka` of the mean patch tokens over the photos,
      and ``cka_biased``: `clipshift.measure.functional.linear_cka_biased`. NaN if a token is not
      finite.

    It keeps running sums: 2K + 1 matrices of (width + 2) × (width + 2), the products of clean
    with clean (``xx``), view with view (``yy``) and view with clean tokens (``yx``), each token
    extended by its squared length and 1.

    Args:
        variants: K.
        width: Of the layer's tokens.

    Example:
        >>> patches = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 1.0]])
        >>> clean = torch.stack([patches, patches], dim=1)
        >>> metric = LayerShift(variants=1, width=2)
        >>> metric.update(2 * clean[None], clean)
        >>> {name: round(float(value), 6) for name, value in metric.compute().items()}
        {'cosine': 1.0, 'patch_cosine': 1.0, 'cka': 1.0, 'cka_biased': 1.0, 'spread': 0.404408}
    """

    cosine: Tensor
    cosine_count: Tensor
    xx: Tensor
    yy: Tensor
    yx: Tensor
    direction: Tensor
    directed: Tensor

    def __init__(self, variants: int, width: int, **kwargs: Any) -> None:
        square, cosines = (width + 2, width + 2), (variants, 2)
        sums: dict[str, tuple[int, ...]]
        sums = {"cosine": cosines, "cosine_count": cosines, "xx": square}
        sums |= {"yy": (variants, *square), "yx": (variants, *square)}
        super().__init__(sums, {"direction": (width,), "directed": ()}, **kwargs)

    @classmethod
    def from_sums(cls, sums: Mapping[str, Tensor]) -> "LayerShift":
        """Restore a metric from its running sums, by their names in ``metric_state``."""
        metric = cls(len(sums["yy"]), len(sums["xx"]) - 2, sync_on_compute=False)
        for name, value in sums.items():
            setattr(metric, name, value)
        metric._update_count = 1  # torchmetrics warns of a metric that was never updated
        return metric

    def update(self, views: Tensor, clean: Tensor) -> None:
        """Add B photos."""
        self.photo_values = functional.cosine_similarity(views, clean)
        self.cosine += self.photo_values.nansum(dim=1)
        self.cosine_count += self.photo_values.isfinite().sum(dim=1)
        units = functional.unit(clean[:, 0]).nan_to_num(0)  # NaN without a direction: adds nothing
        self.direction += CleanSpread.in_steps(units).sum(dim=0)
        self.directed += functional.has_direction(clean[:, 0]).sum()
        x, y = self._extended(clean[:, 1]), self._extended(views[:, :, 1])
        self.xx += x.T @ x
        self.yy += y.mT @ y
        self.yx += y.mT @ x

    def forward(self, views: Tensor, clean: Tensor) -> Tensor:
        """Add B photos and return their cosines, shape (K, B, 2)."""
        self.update(views, clean)
        return self.photo_values

    def compute(self) -> dict[str, Tensor]:
        """The mean cosines and both kinds of CKA over all photos."""
        count = self.xx[-1, -1]
        mean_x, mean_y = self.xx[-1, :-2] / count, self.yy[:, -1, :-2] / count
        xx, aa = self._centred(self.xx, mean_x, mean_x)
        yy, bb = self._centred(self.yy, mean_y, mean_y)
        yx, ab = self._centred(self.yx, mean_y, mean_x)
        varies_x, varies_y = (
            torch.einsum("...ii->...", products) > COLLAPSED * count * mean.square().sum(dim=-1)
            for products, mean in ((xx, mean_x), (yy, mean_y))
        )
        both_vary = varies_x & varies_y
        cka = functional.debiased_cka_of(xx, yy, yx, aa, bb, ab, count)
        biased = functional.biased_cka_of(xx, yy, yx)
        cosine, patch_cosine = (self.cosine / self.cosine_count).unbind(dim=1)
        return {
            "cosine": cosine,
            "patch_cosine": patch_cosine,
            "cka": cka.where(both_vary, torch.nan),
            "cka_biased": biased.where(both_vary, torch.nan),
            "spread": functional.spread_of(
                self.direction.double() / CleanSpread.steps, self.directed
            ),
        }

    @staticmethod
    def _extended(tokens: Tensor) -> Tensor:
        """Append to tokens their squared length and a 1, so that products hold all other sums."""
        tokens = tokens.double()
        square = tokens.square().sum(dim=-1, keepdim=True)
        return torch.cat([tokens, square, torch.ones_like(square)], dim=-1)

    @staticmethod
    def _centred(sums: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Turn sums of products of extended tokens into those of centred tokens.

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


class OutlierTokens(PhotoMean):
    """Outlier tokens of several views of a photo, layer by layer, and the gaze that falls on them.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``norms`` (`Tensor`): lengths of the patch tokens of B photos in K views after L layers, shape
      (K, B, L, P).
    - ``gaze`` (`Tensor`): gaze on these views, at least 0, shape (K, B, P); None where it is not
      known.

    As output, ``forward`` gives for each photo the number of `functional.outlier_tokens`, their
    share of all patch tokens, and their share of the gaze (NaN without one; `functional.gaze_on`),
    float64, shape (K, B, L, 3), and ``compute`` the means over photos: ``tokens``, ``share`` and
    ``gaze_share``, each float64, shape (K, L). A view with a length that is not finite is left out.

    Args:
        views: K.
        layers: L.

    Example:
        >>> norms = torch.tensor([1.0, 1.0, 8.0, 1.0])
        >>> metric = OutlierTokens(views=1, layers=1)
        >>> gaze = torch.tensor([0.125, 0.125, 0.75, 0.0])
        >>> metric.update(norms[None, None, None], gaze[None, None])
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'tokens': 1.0, 'share': 0.25, 'gaze_share': 0.75}
    """

    def __init__(self, views: int, layers: int, **kwargs: Any) -> None:
        super().__init__((views, layers, 3), **kwargs)

    def update(self, norms: Tensor, gaze: Tensor | None) -> None:
        """Add B photos."""
        outliers = functional.outlier_tokens(norms)
        tokens = outliers.sum(dim=-1).double()
        gaze_share = torch.full_like(tokens, torch.nan)
        if gaze is not None:
            gaze_share = functional.gaze_on(outliers, gaze.double()[:, :, None])
        values = torch.stack([tokens, tokens / norms.shape[-1], gaze_share], dim=-1)
        is_finite = norms.isfinite().all(dim=-1)[..., None]
        self.add_photos(values.where(is_finite, torch.nan), dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The means over all photos."""
        means = super().compute().unbind(dim=-1)
        return dict(zip(("tokens", "share", "gaze_share"), means, strict=True))


class AugmentationDistance(PhotoMean):
    """`clipshift.measure.functional.augmentation_distance` over photos that arrive in batches.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``embeddings`` (`Tensor`): of B photos under K augmentations, shape (K, B, D).

    As output, ``compute`` gives the mean distance over all photos, float64, shape (K, K), and
    ``forward`` the distances of the B photos, shape (B, K, K); photos whose distance is NaN are
    left out of the mean.

    Args:
        names: The K augmentations.

    Example:
        >>> metric = AugmentationDistance(["noise", "blur"])
        >>> metric.update(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> metric.compute()
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__((len(names), len(names)), **kwargs)
        self.names = list(names)

    def update(self, embeddings: Tensor) -> None:
        """Add B photos."""
        self.add_photos(functional.pairwise_distances(embeddings))

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot the matrix as a heatmap; see `torchmetrics.Metric.plot`."""
        matrix = self.compute() if val is None else val
        return plot_confusion_matrix(matrix, ax=ax, labels=self.names)
