"""The Python interface: what the command ``clipshift`` does, on photos and models in memory."""

import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from clipshift import options as spec
from clipshift import pipeline
from clipshift.choices import model_options, read_choice
from clipshift.comparison.budget import Judgement, judge, read_budget
from clipshift.comparison.leaderboard import make_leaderboard
from clipshift.comparison.pair import compare_pair, trained_on_of
from clipshift.comparison.parity import Parity, make_stack, measure_parity
from clipshift.comparison.parity_report import report_parity
from clipshift.comparison.sweep import Sweep, same_runs
from clipshift.data.classes import candidate_classes
from clipshift.data.dataset import ViewDataset
from clipshift.data.memory import photos_of
from clipshift.data.photos import Photo, measurable
from clipshift.data.selection import SELECTION, select
from clipshift.encode.modules import as_encoder, model_name
from clipshift.errors import UserError, did_you_mean, first_line
from clipshift.evaluate.evaluation import Evaluation
from clipshift.parts import make_augmentations, make_measures, named_parts, node_of
from clipshift.progress import silenced
from clipshift.report.charts import vega
from clipshift.report.charts.gaze import draw_pictures
from clipshift.report.charts.ranking import draw_ranking
from clipshift.report.explorer import gazed_pictures
from clipshift.report.page import template
from clipshift.report.run import write_report
from clipshift.report.sections.measures import measure_table, ranked_means, ranked_table
from clipshift.report.shift import HEADLINE_MEASURES
from clipshift.report.tables import make_table
from clipshift.results.rebuild import PASSED, rebuild_views
from clipshift.results.records import Records
from clipshift.results.runs import TABLES, Run, copy_results, misfits, read_run
from clipshift.results.table import labels_of

Function = TypeVar("Function", bound=Callable[..., Any])
SHOWN_GAZES = 1000
"""The number of leading photos whose gaze a result can show."""
OTHER_DEFAULTS = {"attributes": None, "num_workers": 0, "save_gaze": SHOWN_GAZES}
"""Defaults that are not the command's: None for its file of attributes, no processes that would
import a notebook's code, and gazes to show."""

TABLE_MEASURES = (*HEADLINE_MEASURES, "retained", "zero_shot_top1", "attention_similarity", "ssim")
"""The measures that a result shows first."""


class Result:
    """What was measured: tables, figures, and the folder that holds them.

    In a notebook it shows itself as its table and ranking.
    """

    run: Run
    """The run, with all its tables and facts."""
    summary: pd.DataFrame
    """Means over photos, with 95 % intervals."""
    ranking: pd.DataFrame
    """Augmentations by their shift, with intervals of ranks and differences."""
    thresholds: pd.DataFrame
    """Whether a cosine tells the same photo from another, and the cosine to set."""
    layers: pd.DataFrame
    """The shift after every layer; empty unless asked for by ``layers=True``."""
    components: pd.DataFrame
    """Shares of heads and MLPs in the shift; empty without ``dissect=True``."""
    locations: pd.DataFrame
    """Shares of the shift by the patches that heads gather it from; empty likewise."""
    patching: pd.DataFrame
    """What single heads, MLPs or stages undo and do when patched; empty likewise."""
    head_texts: pd.DataFrame
    """The texts that span the shift of the leading heads; empty likewise."""
    geometry: pd.DataFrame
    """What all photos share of the shift, and what can change a decision; empty likewise."""
    margins: pd.DataFrame
    """Zero-shot margins, and the decisions that change; empty likewise, or without classes."""
    encoded: pd.DataFrame
    """What embeddings still tell of augmentations and their draws; empty likewise."""
    faithfulness: pd.DataFrame
    """Whether the gaze names the patches that the embedding depends on; empty likewise."""
    dose: pd.DataFrame
    """The shift as a rising function of the distortion; empty with fewer than two severities.

    Where it reaches the distance of near photos is in ``run.dose_thresholds``.
    """
    confidence: pd.DataFrame
    """Whether zero-shot confidence can be trusted, by augmentation; empty without labels."""
    retrieval: pd.DataFrame
    """Recall between photos and captions, by augmentation; empty without captions."""
    draws: pd.DataFrame
    """The worst of several draws, and components of the variance; empty of a single draw."""
    attack: pd.DataFrame
    """Means under attack, with 95 % intervals; empty unless asked for by ``attack_epsilon``."""

    def __init__(self, run: Run, views: ViewDataset | UserError, temporary: object = None) -> None:
        vars(self).update({name: getattr(run, name) for name in TABLES})
        self.run = run
        self._views = views
        self._temporary = temporary  # goes with the result

    @property
    def shift(self) -> pd.DataFrame:
        """One row per photo, augmentation and severity, one column per measure."""
        return self.run.shift

    def table(self) -> pd.DataFrame:
        """Means of the leading measures: one row per augmentation, the largest shift first.

        Its columns are relative shift, cosine, retained, zero-shot top-1, attention similarity and
        SSIM, of those that were measured, and all measures that are not clipshift's own. Its index
        is ``augmentation``, and before that ``severity`` where there are several.
        """
        several = self.summary["severity"].nunique() > 1
        keys = ["severity", "augmentation"] if several else ["augmentation"]
        return ranked_means(self.summary).set_index(keys)[self._leading()]

    def _leading(self) -> list[str]:
        metrics = self.run.info.config.metric
        own = [n for n, node in metrics.items() if not node["_target_"].startswith("clipshift.")]
        measured = list(self.summary["measure"].unique())
        return [measure for measure in (*TABLE_MEASURES, *own) if measure in measured] or measured

    def plot_ranking(self) -> vega.Chart:
        """Augmentations by their mean shift: an Altair chart."""
        return draw_ranking(self.ranking, self.summary, self.attack)

    def plot_gaze(self, photo: int | str) -> vega.Chart:
        """Where the model looks on a photo, clean and under every augmentation: an Altair chart.

        Args:
            photo: Its position among the photos, or its id.

        Raises:
            UserError: If the model has no gaze, there is no such photo, its gaze was not kept, or
                it can no longer be read.
        """
        views, ids = self._views, list(labels_of(self.run.rows).index)
        if isinstance(views, ViewDataset):
            ids = [one.id for one in measurable(views.photos)]
        if isinstance(photo, int):
            photo = ids[photo] if -len(ids) <= photo < len(ids) else f"{photo} of {len(ids)}"
        with misfits(f"the run in {self.run.folder}"):
            pictures = gazed_pictures(self.run, views, photo)
        model = self.run.info.model
        title = f"Gaze of {model.name} ({model.gaze}): from none (dark) to the most (yellow)"
        return draw_pictures(pictures, title)

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
        leading = self.summary[self.summary["measure"].isin(self._leading())]
        groups = leading.groupby("severity", sort=False)
        tables = [ranked_table(group, self.run.columns, self.run.trained_on) for _, group in groups]
        return "\n\n".join(table.to_string(index=False) for table in tables)

    def _repr_html_(self) -> str:
        leading, run, tables = self._leading(), self.run, {}
        for severity, summary in self.summary.groupby("severity", sort=False):
            data, spec = measure_table(summary, run.columns, run.trained_on, run.below_floor)
            augmentation, *columns = spec
            others = {column.value: column for column in columns}
            shown = [others.pop(measure) for measure in leading if measure in others]
            parts = (shown, others.values())
            tables[severity] = [make_table(data, [augmentation, *part], name="") for part in parts]
        drawn = vega.svg(vega.spec_of(self.plot_ranking())) if len(self.ranking) else ""
        better = {facts.short: facts.better for facts in run.columns.values()}
        shape = template("clipshift.report", "result.html.jinja")
        return shape.render(tables=tables, better=better, ranking=drawn)


OPTIONS = {
    option.removeprefix("data.").replace(".", "_"): (option, one, line)
    for option, one, line in spec.described_options(spec.EvaluateOptions)
    if option not in ("severity", "zero_shot.classes")  # for which there are other parameters
}
"""The options that are parameters of `measure_shift`, by the parameters' names."""


def with_options(function: Function) -> Function:
    """Add the parameters that are options to a function's signature and docstring."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[:-1]
    before, _, after = (function.__doc__ or "").partition("        **options: ")
    for name, (_, one, line) in OPTIONS.items():
        default = OTHER_DEFAULTS.get(name, spec.default_of(one))
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=one.type))
        before += f"        {name}: {line}.\n"
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__doc__ = before + after.partition("\n")[2]
    return function


@with_options
def measure_shift(
    photos: Any = None,
    model: Any = "lite",
    augmentations: Any = "paper",
    severities: str | int | Sequence[str | int] = "paper",
    *,
    labels: Sequence[str | None] | None = None,
    classes: str | Sequence[str] | None = None,
    measures: Any = "full",
    prompts: str | Sequence[str] = "auto",
    preprocess: Any = None,
    pooling: str | None = None,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
    device: str | torch.device = "auto",
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Measure how far a model's embeddings move under augmentations of photos.

    The numbers are those of ``clipshift evaluate``, to the bit.

    Args:
        photos: A folder; a list of paths, Pillow images, uint8 arrays (H, W, 3) or float tensors
            (3, H, W) in [0, 1]; a torch or Hugging Face data set; None for the photographs that
            come with scikit-image. See `clipshift.data.memory.photos_of`, also for their ids.
        model: One of ``clipshift models``; a checkpoint's folder in the hub's format; open_clip's
            name and tag, or name and checkpoint file, as ``("ViT-B-32", "laion2b_s34b_b79k")``; the
            name of a model of another library, as ``"timm:resnet50"`` or
            ``"facebook/dinov2-small"``; options of ``model`` with their ``kind``; or an object: see
            `clipshift.encode.as_encoder`.
        augmentations: A choice of ``aug``, as ``"noise"``; an augmentation or a transform of
            torchvision, kornia or albumentations; a list of both; or a dict of them by name. In a
            list a transform has the name of its class, as ``random_rotation``. Random numbers are
            drawn by name.
        severities: ``paper``, 1 to 5, ``matched``, or a list of them.
        labels: The class of each photo, where ``photos`` is a list.
        classes: Names to choose among in zero-shot classification: ``imagenet``, or a list. By
            default those of the photos.
        measures: A choice of ``metric``; a `clipshift.measure.PhotoMeasure` or any torchmetrics
            metric of two inputs; a list of both; or a dict of them by name.
        prompts: A choice of ``prompts``, or templates with ``{}`` for the class.
        preprocess: What a model in memory is given: see `clipshift.encode.as_encoder`.
        pooling: What the embedding is, where the model leaves a choice: ``class_token``,
            ``mean_of_patches``, ….
        tokenizer: A module's in memory: from a list of texts to what ``encode_text`` takes. Without
            it, measures with text are left out.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or a ``torch.device``; ``auto`` is a GPU if
            there is one.
        folder: Where the run's files go; by default a temporary folder, which goes with the result.
        progress: Whether to show a bar.
        **options: The command's options, with _ for a dot and without ``data.``: ``layers=True``.

    Raises:
        UserError: In one line, if any of this cannot be used or is out of range.
    """
    is_named = isinstance(model, str | os.PathLike | tuple | Mapping)
    if is_named and (preprocess is not None or tokenizer is not None):
        raise UserError(f"preprocess and tokenizer are for a model in memory, not for {model}")
    described = model_options(model) if is_named else _in_memory(model)
    settings = spec.read_options(spec.EvaluateOptions, _values(severities, options))
    aug, metric = named_parts("aug", augmentations), named_parts("metric", measures)
    config: dict[str, Any] = {
        **spec.defaults(spec.EvaluateCommand),
        **asdict(settings),
        "data": asdict(settings.data),
        "model": described | ({"pooling": pooling} if pooling else {}),
        "aug": {name: node_of(part) for name, part in aug.items()},
        "metric": {name: node_of(part) for name, part in metric.items()},
        "prompts": read_choice("prompts", prompts if isinstance(prompts, str) else "auto"),
        "trainer": read_choice("trainer", "auto") | _accelerator(device),
        "logger": {},
        "cache": read_choice("cache", "disk"),
    }
    if not isinstance(prompts, str):
        config["prompts"]["templates"] = list(prompts)
    spec.check_options(spec.EvaluateCommand, config)
    every = photos_of(photos, labels)
    config["data"] |= _source(photos, every)
    selected = select(every, **{name: getattr(settings.data, name) for name in SELECTION})
    lightning = {name: value for name, value in config["trainer"].items() if name != "_target_"}
    if not is_named:
        encoder = as_encoder(model, preprocess, tokenizer, pooling=pooling)
        reference = None
        if settings.precision not in (pipeline.AUTO, pipeline.FULL, encoder.precision):
            raise UserError(
                f"precision={settings.precision}, but the model is in {encoder.precision}"
            )
        config["precision"] = encoder.precision
    else:
        encoder = pipeline.load_model(config["model"], settings.precision, lightning["accelerator"])
        reference = pipeline.load_reference(config["model"], encoder)
    parts, ladders = make_augmentations(aug)
    names = pipeline.classes_of(every) if classes is None else classes
    names = candidate_classes(names) if isinstance(names, str) else list(map(str, names))
    measured = make_measures(metric)
    templates = pipeline.templates_for(config["prompts"], names)
    evaluation = Evaluation(
        settings, selected, names, encoder, parts, ladders, measured, templates, config, reference
    )
    temporary = None if folder else tempfile.TemporaryDirectory(prefix="clipshift-")
    target = Path(folder or temporary.name).expanduser()  # type: ignore[union-attr]
    with pipeline.locked(target, "folder"), silenced(not progress):
        records = Records(target)
        records.begin({}, restart=True)
        make = partial(pl.Trainer, **lightning)
        trainer = pipeline.evaluation_trainer(make, target, progress=progress)
        run = pipeline.carry_out(pipeline.prepare(evaluation), records, trainer, target)
        records.remove()
    assert run is not None  # there is one process
    return Result(run, evaluation.views(), temporary)


def load_run(folder: str | Path, fetch: bool = False, photos: Any = None) -> Result:
    """A finished run, from its folder. A warning names photos that are no longer there.

    Args:
        folder: The folder. It need not be one's own: what it holds is read as data.
        fetch: Whether its photos may be read again where they lie behind an address.
        photos: Its photos, as they were passed to `measure_shift`, if they were in memory or have
            moved. Only those are shown that are what was measured.

    Raises:
        UserError: If the folder holds no finished run.
    """
    run = read_run(Path(folder).expanduser())
    try:
        views = rebuild_views(run, fetch, photos)
    except UserError as error:  # its photos are gone, behind an address, or were held in memory
        warnings.warn(str(error), stacklevel=2)
        return Result(run, error)
    here = {photo.id for photo in measurable(views.photos)}
    ids = labels_of(run.rows).index
    if missing := [photo for photo in ids if photo not in here]:
        words = f"{len(missing)} of {len(ids)} photos are missing: {', '.join(missing[:5])}"
        warnings.warn(words, stacklevel=2)
    return Result(run, views)


def compare(
    a: Result | Run | str | Path, b: Result | Run | str | Path, seed: int = 0
) -> pd.DataFrame:
    """Compare two runs photo by photo.

    Args:
        a: The one, as of a base model: a result, or a run's folder.
        b: The other, of the same photos and views.
        seed: Of the bootstrap.

    Returns:
        One row per augmentation, severity and measure: both means, the mean difference with its
        95 % interval, the share of photos that improved, and p after Holm's correction.

    Raises:
        UserError: If one is not a finished run, or they measured different photos or views.
    """
    first, second = _run_of(a), _run_of(b)
    with misfits(f"{first.folder} and {second.folder}"):
        return compare_pair(first, second, seed, trained_on_of([first, second]))


def check_budget(run: Result | Run | str | Path, budget: Any) -> Judgement:
    """Hold a run against limits on its means.

    Args:
        run: A result, or a run's folder.
        budget: The path of a ``budget.yaml``, or a mapping with what it holds. See
            `clipshift.comparison.budget.Budget`.

    Returns:
        ``verdict``: ``pass``, ``fail`` or ``undecided``; and ``table``, one row per limit and mean.
        ``print`` shows the verdict, and the limits that are not kept.

    Raises:
        UserError: If one of them cannot be used, or a limit is on what was not measured.
    """
    return judge(read_budget(budget), _run_of(run))


def leaderboard(runs: Sequence[Result | Run | str | Path]) -> pd.DataFrame:
    """Rank the models of runs by their shift, and show all else that one chooses a model by.

    Args:
        runs: Results, or runs' folders, of the same photos and views. Two of one model are told
            apart by their place in the list.

    Returns:
        One row per severity and model: see `clipshift.comparison.leaderboard.make_leaderboard`.

    Raises:
        UserError: If one is not a finished run, or they measured different photos or views.
    """
    every = {f"{place}": _run_of(run) for place, run in enumerate(runs)}
    with misfits("the leaderboard"):
        alike, refused = same_runs(every)
        if refused:
            reasons = "; ".join(f"run {name}: {reason}" for name, reason in refused.items())
            raise UserError(f"the runs cannot be ranked together: {reasons}")
        return make_leaderboard(Sweep(Path(), {name: {} for name in alike}, alike, noun="run"))


def _run_of(given: Any) -> Run:
    if isinstance(given, str | os.PathLike):
        return read_run(Path(given).expanduser())
    run = given.run if isinstance(given, Result) else given
    if not isinstance(run, Run):
        raise UserError(f"{type(run).__name__} is not a run: pass a result, or a run's folder")
    return run


def parity(
    a: Any, b: Any, photos: Any = None, tolerance: float = 1e-3, folder: str | Path | None = None
) -> Parity:
    """See whether two models that ought to be one agree, and which step makes a difference.

    Args:
        a: The one: a name, folder or object as ``model`` of `measure_shift`, in float32; or, in a
            tuple, an object and its preprocessing, which may be any function from an RGB Pillow
            image to normalised pixels, (3, H, W). See `clipshift.comparison.parity.make_stack`.
        b: The other. Its embeddings may have another dimension.
        photos: See `measure_shift`.
        tolerance: The largest accepted 1 − cosine of a photo's two embeddings.
        folder: Where ``parity.csv``, ``parity.json`` and the page ``parity.html`` go, if anywhere.

    Returns:
        ``passed``, whether every photo is within the tolerance; ``verdict``, in sentences, which
        ``print`` shows; and ``table``, one row per photo.

    Raises:
        UserError: If a model or the photos cannot be used.
    """
    first = make_stack(a)
    measured = measure_parity(first, make_stack(b, first.encoder), photos_of(photos), tolerance)
    if folder is not None:
        report_parity(measured, Path(folder).expanduser())
    return measured


def _values(severities: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The given values of the options, and `OTHER_DEFAULTS`, as nested dictionaries.

    Raises:
        UserError: If one is not an option.
    """
    values = read_choice("", "attributes") | {"severity": _plain(severities)}
    for name, value in {**OTHER_DEFAULTS, **options}.items():
        if name not in OPTIONS:
            names = inspect.signature(measure_shift).parameters
            raise UserError(f"no parameter {name!r}{did_you_mean(name, names)}")
        group, _, option = OPTIONS[name][0].rpartition(".")
        if name != "attributes" or value is not None:
            (values.setdefault(group, {}) if group else values)[option] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    """A value as a configuration has it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _source(photos: Any, listed: Sequence[Photo]) -> dict[str, Any]:
    """Where photos come from, as a configuration has it."""
    if photos is None:
        return {"_target_": "clipshift.data.sample"}
    if isinstance(photos, str | os.PathLike):
        path = os.path.abspath(os.path.expanduser(photos))
        if os.path.exists(path):
            return {"_target_": "clipshift.data.folder", "root": path}
    folders = [os.path.dirname(os.path.abspath(p.file)) for p in listed if type(p) is Photo]
    root = os.path.commonpath(folders) if len(folders) == len(listed) else None
    return {"_target_": PASSED, "root": root}


def _accelerator(device: str | torch.device) -> dict[str, Any]:
    """A device in Lightning's words.

    Raises:
        UserError: If there is no such device here.
    """
    if device == pipeline.AUTO:
        return {}
    try:
        chosen = torch.empty(0, device=torch.device(device)).device
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(
            f"device={device}: {first_line(error)}; use cpu, cuda, cuda:1 or mps"
        ) from None
    return {"accelerator": chosen.type, "devices": [chosen.index] if chosen.type == "cuda" else 1}


def _in_memory(model: Any) -> dict[str, Any]:
    """What a configuration has of a model in memory."""
    name = model_name(model)
    return {"name": name, "architecture": name, "pretrained": None, "checkpoint": None}
