"""Measures by a torchmetrics metric: its own numbers, of one photo after another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from support.augmentations import augmentations_named
from support.evaluation import run_module
from torch import Tensor
from torchmetrics import Accuracy, MeanMetric, Metric
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import (
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
)
from torchmetrics.regression import (
    CosineSimilarity,
    MeanAbsoluteError,
    MeanSquaredError,
    PearsonCorrCoef,
    SpearmanCorrCoef,
)

from clipshift.augment.variants import make_variants
from clipshift.cli.build import instantiate_part
from clipshift.data.dataset import ViewDataset
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError
from clipshift.measure.metrics import SSIM as OUR_SSIM
from clipshift.measure.metrics import PhotoMeasure
from clipshift.measure.per_photo import as_measure
from clipshift.parts import make_measures
from clipshift.results.table import shift_table, summarize


class GazeError(MeanAbsoluteError):
    """Of gazes."""

    space = "gaze"


class Pearson(PearsonCorrCoef):
    """Which says what is better."""

    higher_is_better = True


def test_image_metrics_are_of_each_photos_pixels(views: Tensor) -> None:
    view = (views + 0.1 * torch.arange(8)[:, None, None, None]).clamp(0, 1)
    psnr = as_measure("psnr", PeakSignalNoiseRatio(data_range=1.0))
    values = psnr(view, views).numpy()
    error = ((view - views).double() ** 2).mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(values[1:], -10 * np.log10(error[1:]), rtol=1e-5)
    assert np.isnan(values[0])  # nothing changed: infinite
    assert psnr.compute().item() == pytest.approx(values[1:].mean())
    ssim = as_measure("own_ssim", StructuralSimilarityIndexMeasure(data_range=1.0))(view, views)
    expected = [
        structural_similarity_index_measure(a[None], b[None], data_range=1.0)
        for a, b in zip(view, views, strict=True)
    ]
    assert torch.equal(ssim, torch.stack(expected))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (MeanSquaredError, lambda a, b: np.mean((a - b) ** 2)),
        (CosineSimilarity, lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
        (Pearson, lambda a, b: pearsonr(a, b).statistic),
        (GazeError, lambda a, b: np.mean(np.abs(a - b))),
    ],
)
def test_other_metrics_are_of_each_photos_embedding(
    metric: type[Metric], expected: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (6, 5, 4) if metric is GazeError else (6, 20)
    view, clean = (torch.randn(shape, generator=generator) for _ in range(2))
    measure = as_measure("own", metric())
    values = measure(view, clean)
    pairs = zip(view.flatten(1).numpy(), clean.flatten(1).numpy(), strict=True)
    np.testing.assert_allclose(values, [expected(a, b) for a, b in pairs], rtol=1e-4, atol=1e-6)
    backwards = torch.cat([measure(view[i : i + 1], clean[i : i + 1]) for i in range(5, -1, -1)])
    assert torch.equal(backwards.flip(0), values)


def test_no_photo_is_kept() -> None:
    measure = as_measure("own", SpearmanCorrCoef())
    measure(*torch.rand(2, 6, 20, generator=torch.Generator().manual_seed(1)))
    assert len(measure.metric.preds) == 1  # type: ignore[attr-defined,union-attr]


def test_facts_are_what_torchmetrics_says() -> None:
    psnr = as_measure("psnr", PeakSignalNoiseRatio(data_range=1.0)).facts
    assert (psnr.label, psnr.short) == ("peak signal noise ratio of pixels", "psnr")
    assert (psnr.space, psnr.better, psnr.unchanged) == ("pixels", "higher", None)
    error = as_measure("error", MeanSquaredError()).facts
    assert (error.space, error.better, error.unchanged) == ("embedding", "lower", 0)
    cosine = as_measure("cosine", CosineSimilarity()).facts
    assert (cosine.better, cosine.unchanged) == ("higher", 1)
    assert as_measure("gaze", GazeError()).facts.space == "gaze"


def test_intervals_are_not_cut_at_the_ends_of_torchmetrics_plots() -> None:
    # torchmetrics draws a cosine from 0 to 1
    assert CosineSimilarity.plot_lower_bound == 0
    facts = as_measure("own", CosineSimilarity()).facts
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "photo": [f"{i}" for i in range(30)],
            "label": None,
            "augmentation": "noise",
            "severity": "paper",
            "own": rng.normal(-0.5, 0.1, 30),
        }
    )
    [row] = summarize(table, {"own": facts}, 0).itertuples()
    assert row.ci_low < row.mean < row.ci_high < 0


class InRange(MeanAbsoluteError):
    """Of pixels, which it will not take beyond black and white."""

    space = "pixels"

    def update(self, view: Tensor, clean: Tensor) -> None:
        if min(view.min(), clean.min()) < 0 or max(view.max(), clean.max()) > 1:
            raise ValueError("not in [0, 1]")
        super().update(view, clean)


class OnBothSides(MeanAbsoluteError):
    """Of embeddings, which are not all positive."""

    def update(self, view: Tensor, clean: Tensor) -> None:
        if view.min() >= 0:
            raise ValueError("not around 0")
        super().update(view, clean)


def test_a_metric_is_tried_on_what_it_will_be_given() -> None:
    assert as_measure("own", InRange()).facts.space == "pixels"
    assert as_measure("own", OnBothSides()).facts.space == "embedding"


class Ends(Metric):
    """Two numbers for a photo."""

    higher_is_better = True

    def update(self, view: Tensor, clean: Tensor) -> None:
        self.ends = (view - clean).aminmax()

    def compute(self) -> Tensor:
        return torch.stack(list(self.ends))


class Elsewhere(MeanAbsoluteError):
    """Of what there is not."""

    space = "layers"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Ends(), "Ends returns 2 numbers for one photo, not one number"),
        (PearsonCorrCoef(), "PearsonCorrCoef does not define higher_is_better: set it"),
        (TotalVariation(), "TotalVariation fails: TypeError: "),
        (Accuracy(task="binary"), "BinaryAccuracy fails: RuntimeError: "),
        (MeanMetric(), "MeanMetric is not a measure"),
        (abs, "builtin_function_or_method is not a measure"),
        (Elsewhere(), "Elsewhere: space='layers' must be one of pixels, embedding, gaze"),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(part: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        as_measure("own", part)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_other_columns_are_taken() -> None:
    with pytest.raises(UserError, match="contrast is the name of another column"):
        as_measure("contrast", OUR_SSIM())
    with pytest.raises(UserError, match=r"metric\.own: MeanMetric is not a measure"):
        make_measures({"own": {"_target_": "torchmetrics.MeanMetric"}}, instantiate_part)
    ours = OUR_SSIM()
    assert as_measure("ssim", ours) is ours


def test_they_are_measured_beside_ours_whatever_the_batch(encoder: Encoder) -> None:
    photos, chosen = sample()[:5], augmentations_named("noise", "blur")
    variants = make_variants(chosen, {}, ["paper"], {})

    def table(batch_size: int) -> pd.DataFrame:
        measures: dict[str, PhotoMeasure] = {
            "ssim": OUR_SSIM(),
            "own_ssim": as_measure("own_ssim", StructuralSimilarityIndexMeasure(data_range=1.0)),
            "mse": as_measure("mse", MeanSquaredError()),
            "gaze_error": as_measure("gaze_error", GazeError()),
        }
        dataset = ViewDataset(photos, chosen, 0, "squash")
        records, _ = run_module(encoder, variants, measures, dataset, batch_size)
        return shift_table(records.read(), photos, variants)

    measured = table(5)
    pd.testing.assert_frame_equal(measured, table(2), check_exact=True)
    assert measured[["own_ssim", "mse", "gaze_error"]].gt(0).all(axis=None)
    assert measured["own_ssim"].corr(measured["ssim"]) > 0.95
