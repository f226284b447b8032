"""The Python interface: the command ``clipshift``, for photos and models that one holds."""

import html
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from torch import Tensor, nn

from clipshift.augment import as_augmentation
from clipshift.choices import model_options
from clipshift.cli.build import (
    classes_of,
    make_augmentations,
    make_encoder,
    make_evaluation,
    make_reference,
)
from clipshift.cli.command import as_typed, compose_config
from clipshift.cli.config import plain, validate
from clipshift.cli.evaluate import carry_out
from clipshift.cli.jobs import locked
from clipshift.comparison.pair import compare_pair, trained_on_of
from clipshift.data import ViewDataset, candidate_classes, photos_of, select
from clipshift.encode import as_encoder
from clipshift.errors import UserError
from clipshift.report.charts import vega
from clipshift.report.charts.gaze import draw_pictures
from clipshift.report.charts.ranking import draw_ranking
from clipshift.report.explorer import gazed_pictures
from clipshift.report.run import write_report
from clipshift.report.sections.measures import ranked_table
from clipshift.results import (
    Records,
    Run,
    copy_results,
    differing_views,
    misfits,
    read_run,
    rebuild_views,
)
from clipshift.train.export import trained_augmentations

SHOWN_GAZES = 1000
"""Of so many first photos a result can show the gaze."""


class Result:
    """What was measured: tables, figures, and the folder that holds them.

    In a notebook it shows itself as its table and ranking.

    Attributes:
        run: The run, with all its tables and facts.
    """

    def __init__(
        self,
        run: Run,
        views: ViewDataset | UserError,
        temporary: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self.run = run
        self._views = views
        self._temporary = temporary  # goes with the result

    @property
    def shift(self) -> pd.DataFrame:
        """One row per photo, augmentation and severity, one column per measure."""
        return self.run.shift

    @property
    def summary(self) -> pd.DataFrame:
        """Means over photos, with 95 % intervals."""
        return self.run.summary

    @property
    def ranking(self) -> pd.DataFrame:
        """Augmentations by their shift, with intervals of ranks and differences."""
        return self.run.ranking

    @property
    def layers(self) -> pd.DataFrame:
        """The shift after every layer; empty unless asked for by ``layers=True``."""
        return self.run.layers

    def plot_ranking(self) -> vega.Chart:
        """Augmentations by their mean shift: an Altair chart."""
        return draw_ranking(self.ranking, self.summary)

    def plot_gaze(self, photo: int | str) -> vega.Chart:
        """Where the model looks on a photo, clean and under every augmentation: an Altair chart.

        Args:
            photo: Its position among the photos, or its id.

        Raises:
            UserError: If the photo can no longer be read, or its gaze was not kept.
        """
        if isinstance(self._views, UserError):
            raise self._views
        name = self._views.photos[photo].id if isinstance(photo, int) else photo
        return draw_pictures(gazed_pictures(self.run, self._views, name))

    def save(self, folder: str | Path) -> Path:
        """Write all tables and, where the photos can still be had, the report.

        Args:
            folder: Where to; made if missing. What an earlier run wrote there is replaced.

        Returns:
            The folder: ``report.html`` in it is the page.
        """
        target = Path(folder).expanduser()
        if target.resolve() != self.run.folder.resolve():
            target.mkdir(parents=True, exist_ok=True)
            copy_results(self.run.folder, target)
        if isinstance(self._views, ViewDataset):
            write_report(read_run(target), self._views)
        return target

    def __repr__(self) -> str:
        return "\n\n".join(table.to_string(index=False) for table in self._tables().values())

    def _repr_html_(self) -> str:
        parts = []
        for severity, table in self._tables().items():
            parts.append(f"<p>severity {html.escape(severity)}: means with 95 % intervals</p>")
            parts.append(table.to_html(index=False))
        if len(self.ranking):
            parts.append(vega.svg(vega.spec_of(self.plot_ranking())))
        return "".join(parts)

    def _tables(self) -> dict[str, pd.DataFrame]:
        """The summary for people, by severity."""
        tables = {}
        for severity, summary in self.summary.groupby("severity", sort=False):
            columns, trained_on = self.run.columns, self.run.trained_on
            tables[str(severity)] = ranked_table(summary, columns, trained_on)
        return tables


def measure_shift(
    photos: Any = None,
    model: str | Path | tuple[str, str | Path] | nn.Module = "lite",
    augmentations: str | Sequence[str] | Mapping[str, Any] = "paper",
    severities: str | int | Sequence[str | int] = "paper",
    *,
    labels: Sequence[str | None] | None = None,
    classes: str | Sequence[str] | None = None,
    measures: str | Sequence[str] = "full",
    prompts: str | Sequence[str] = "auto",
    layers: bool = False,
    sample: int | None = None,
    resample: str = "auto",
    resize: str = "squash",
    precision: str = "fp32",
    seed: int = 0,
    preprocess: Any = None,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
    folder: str | Path | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> Result:
    """Measure how far a model's embeddings move under augmentations of photos.

    The numbers are those of ``clipshift evaluate``, to the bit.

    Args:
        photos: A folder; a list of paths, Pillow images, uint8 arrays (H, W, 3) or float tensors
            (3, H, W) in [0, 1]; a torch or Hugging Face data set; None for the photographs that
            come with scikit-image. See `clipshift.data.photos_of`, also for their ids.
        model: One of ``clipshift models``; a checkpoint's folder in the hub's format; open_clip's
            name and tag, or name and checkpoint file, as ``("ViT-B-32", "laion2b_s34b_b79k")``; an
            open_clip model; or any module with ``encode_image`` (and ``encode_text``).
        augmentations: A choice of ``aug``, or a list of them; or, by name, augmentations or
            transforms of torchvision, kornia or albumentations.
        severities: ``paper``, 1 to 5, ``matched``, or a list of them.
        labels: The class of each photo, where ``photos`` is a list.
        classes: Names to choose among in zero-shot classification: ``imagenet``, or a list. By
            default those of the photos.
        measures: A choice of ``metric``, or a list of them.
        prompts: A choice of ``prompts``, or templates with ``{}`` for the class.
        layers: Whether to measure the shift of every layer.
        sample: Only so many photos at random, the same for every seed.
        resample: What intervals take as drawn at random: ``photos``, ``classes``, or ``auto``:
            classes where photos of one class shift alike.
        resize: How photos become views: see ``data.resize``.
        precision: The encoder's: ``fp32``, ``bf16``, ``fp16``; ``auto`` is ``bf16`` where the
            hardware computes in it, or else ``fp32``.
        seed: Of every random draw.
        preprocess: What a module in memory is given: see `clipshift.encode.as_encoder`.
        tokenizer: A module's in memory: from a list of texts to what ``encode_text`` takes. Without
            it, measures with text are left out.
        folder: Where the run's files go; by default a temporary folder, which goes with the result.
        batch_size: Photos at once; the numbers do not depend on it.
        num_workers: Processes that read photos; the numbers do not depend on it.
        progress: Whether to show a bar.

    Raises:
        UserError: In one line, whatever of this cannot be had or is out of range.
    """
    own = augmentations if isinstance(augmentations, Mapping) else None
    overrides = {
        "aug": augmentations if own is None else "paper",
        "severity": severities,
        "metric": measures,
        "prompts" if isinstance(prompts, str) else "prompts.templates": prompts,
        "layers": layers,
        "resample": resample,
        "precision": precision,
        "seed": seed,
        "data.resize": resize,
        "data.batch_size": batch_size,
        "data.num_workers": num_workers,
        "save.gaze": SHOWN_GAZES,
        "logger": "none",
    }
    if not isinstance(model, nn.Module):
        overrides |= {f"model.{name}": value for name, value in model_options(model).items()}
    cfg = compose_config("evaluate", [f"{name}={_typed(v)}" for name, v in overrides.items()])
    every = photos_of(photos, labels)
    found = select(every, sample=sample)
    OmegaConf.set_struct(cfg, False)
    if photos is not None:
        held = isinstance(photos, str | os.PathLike)
        cfg.data._target_ = "clipshift.data.folder" if held else "clipshift.data.photos_of"
        cfg.data.root = os.path.abspath(photos) if held else None
    cfg.data.sample = sample
    if isinstance(model, nn.Module):
        encoder = as_encoder(model, preprocess, tokenizer)
        if precision not in ("auto", "fp32", encoder.precision):
            raise UserError(f"precision={precision}, but the model is in {encoder.precision}")
        cfg.model, cfg.precision = _held_model(model), encoder.precision
        reference = None
    elif preprocess is not None or tokenizer is not None:
        raise UserError(f"preprocess and tokenizer are for a model in memory, not for {model}")
    else:
        encoder = make_encoder(cfg.model, precision, cfg.trainer.accelerator)
        reference = make_reference(cfg.model, encoder)
    if own is None:
        made, ladders = make_augmentations(plain(cfg.aug))
    else:
        made, ladders = {name: as_augmentation(part) for name, part in own.items()}, {}
        cfg.aug = {name: {"_target_": _name_of(part)} for name, part in own.items()}
    validate(cfg, "evaluate")
    known = classes_of(every) if classes is None else classes
    if isinstance(known, str):
        known = candidate_classes(known)
    evaluation = make_evaluation(cfg, made, ladders, found, list(known), encoder, reference)
    facts = {
        "job": None,
        "model": plain(cfg.model) | {"trained_on": trained_augmentations(cfg.model.checkpoint)},
        "precision": encoder.precision,
        "config": plain(cfg),
    }
    temporary = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="clipshift-")
        folder = temporary.name
    target = Path(folder)
    with locked(target):
        records = Records(target)
        records.begin({}, anew=True)
        run = carry_out(cfg, evaluation, records, target, facts, progress=progress)
        records.remove()
    assert run is not None  # there is one process
    return Result(run, replace(evaluation, photos=found).views(), temporary)


def load_run(folder: str | Path, fetch: bool = False) -> Result:
    """A finished run, from its folder.

    Args:
        folder: The folder. It need not be one's own: what it holds is read as data.
        fetch: Whether its photos may be read again where they lie behind an address.

    Raises:
        UserError: If the folder holds no finished run.
    """
    run = read_run(Path(folder).expanduser())
    try:
        return Result(run, rebuild_views(run, fetch))
    except UserError as error:  # its photos are gone, behind an address, or were held in memory
        return Result(run, error)


def compare(a: Result, b: Result, seed: int = 0) -> pd.DataFrame:
    """Compare two runs photo by photo.

    Args:
        a: The one, as of a base model.
        b: The other, of the same photos and views.
        seed: Of the bootstrap.

    Returns:
        One row per augmentation, severity and measure: both means, the mean difference with its
        95 % interval, the share of photos that improved, and p after Holm's correction.

    Raises:
        UserError: If they measured different photos or views.
    """
    if differences := differing_views(a.run, b.run):
        raise UserError(
            f"the runs cannot be compared photo by photo: they differ in {', '.join(differences)}"
        )
    with misfits(f"{a.run.folder} and {b.run.folder}"):
        return compare_pair(a.run, b.run, seed, trained_on_of([a.run, b.run]))


def _typed(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str | os.PathLike):
        return as_typed(os.fspath(value))
    if isinstance(value, Sequence):
        return f"[{','.join(map(_typed, value))}]"
    return json.dumps(value)


def _held_model(model: nn.Module) -> dict[str, Any]:
    name = type(model).__name__
    return {"name": name, "architecture": name, "pretrained": None, "checkpoint": None}


def _name_of(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
