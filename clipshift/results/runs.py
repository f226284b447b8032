"""A run: its tables and facts, written to its folder and read back."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_numeric_dtype

from clipshift.data.files import open_file, read_text, typed
from clipshift.errors import UserError, one_line
from clipshift.measure.facts import Facts
from clipshift.results.columns import DEFINITIONS, ShiftFile, column_dictionary
from clipshift.results.files import file_sha256, subfolder, write_csv, write_json, write_whole
from clipshift.results.info import RUN_INFO, RunInfo
from clipshift.results.measured import CLEAN
from clipshift.results.table import Shift
from clipshift.severities import ALL, SEVERITIES, view_name

CALIBRATION = "calibration.json"
LEADERBOARD = "clip_benchmark"
"""The folder of zero-shot results as CLIP_benchmark writes them."""
EVAL_RESULTS = "eval_results.yaml"
"""The same as the Hugging Face hub reads them."""
FIGURES = "figures"
SHIFT = "shift.parquet"
MATRICES = ("distances", "distances_low", "distances_high")
TEXTS = frozenset({
    "augmentation", "severity", "measure", "with", "other", "method", "vocabulary", "text",
    "photo", "reason", "task", "impostors", "statistic", "component", "token", "map", "curve",
    "part", "prompt",
})  # fmt: skip
"""The columns of tables that hold texts; all others hold numbers."""


@dataclass
class Run:
    """A run: its tables and its facts.

    Attributes:
        folder: Its folder.
        info: What ``run.json`` holds: provenance, and what is true of the run as a whole.
        columns: What the measured columns mean.
        rows: ``shift.parquet``, a column at a time; or the table itself.
        summary: Means with intervals.
        distances: Distances between variants.
        distances_low: The lower ends of their 95 % intervals.
        distances_high: The upper ends.
        ranking: Augmentations by their shift; empty where the cosine was not measured.
        correlations: Correlations with the shift; empty likewise.
        layers: Shift by layer; empty where not asked for.
        outliers: Outlier tokens by layer, and their share of the gaze; empty likewise, and where
            the tower has no tokens.
        corruption_error: Errors under corruptions; empty where there are none.
        directions: Whether every photo is moved the same way; this and the next four are empty
            where ``inside`` was not asked for.
        direction_cosines: Which augmentations share a direction.
        undone: How far each method undoes the shift.
        neighbourhoods: What becomes of photos' nearest neighbours, and of the embeddings' spread.
        named: The texts that views move towards, and away from; empty without classes as well.
        confidence: Whether zero-shot confidence can be trusted; empty without labels.
        retrieval: Recall between photos and captions; empty without captions.
        draws: The worst of several draws, and components of the variance; empty of a single one.
        skipped: Photos that could not be read.
        dose: The shift against the distortion; empty with fewer than two severities.
        dose_thresholds: The distortion at which it is that of a nearby photo; empty likewise.
        thresholds: Whether a cosine tells the same photo from another; this and the next are empty
            for a gallery of fewer than two photos.
        cosines: How the cosines of the same photo's and of different photos' are distributed.
        components: Shares of heads and MLPs in the shift; empty where not asked for, and where the
            embedding is not a sum of theirs.
        patching: What single components, or stages, undo and do when they are patched; empty where
            not asked for, and where the model has neither.
        locations: Shares of the shift by the patches that heads gather it from; empty likewise.
        encoded: What embeddings tell of augmentations and their draws; empty where not asked for,
            and for a gallery of fewer than 50 photos.
        faithfulness: How well maps name the patches that embeddings depend on; this and the next
            are empty where not asked for, and where the encoder has no gaze.
        faithfulness_curves: The curves of deletion and insertion by these maps.
        geometry: Parts of the squared shift; empty without ``dissect``.
        margins: Zero-shot margins, and the flips that they predict; empty without classes as well.
        head_texts: The texts that span the shift of leading heads; empty likewise, and where the
            model's text side does not know sentences.
        attack: Means under attack, with intervals; this and the next are empty without one.
        attack_photos: What is compared of attacked photos.
    """

    folder: Path
    info: RunInfo
    columns: dict[str, Facts]
    rows: Shift
    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    distances: pd.DataFrame = field(default_factory=pd.DataFrame)
    distances_low: pd.DataFrame = field(default_factory=pd.DataFrame)
    distances_high: pd.DataFrame = field(default_factory=pd.DataFrame)
    ranking: pd.DataFrame = field(default_factory=pd.DataFrame)
    correlations: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    outliers: pd.DataFrame = field(default_factory=pd.DataFrame)
    corruption_error: pd.DataFrame = field(default_factory=pd.DataFrame)
    directions: pd.DataFrame = field(default_factory=pd.DataFrame)
    direction_cosines: pd.DataFrame = field(default_factory=pd.DataFrame)
    undone: pd.DataFrame = field(default_factory=pd.DataFrame)
    neighbourhoods: pd.DataFrame = field(default_factory=pd.DataFrame)
    named: pd.DataFrame = field(default_factory=pd.DataFrame)
    confidence: pd.DataFrame = field(default_factory=pd.DataFrame)
    retrieval: pd.DataFrame = field(default_factory=pd.DataFrame)
    draws: pd.DataFrame = field(default_factory=pd.DataFrame)
    skipped: pd.DataFrame = field(default_factory=pd.DataFrame)
    dose: pd.DataFrame = field(default_factory=pd.DataFrame)
    dose_thresholds: pd.DataFrame = field(default_factory=pd.DataFrame)
    thresholds: pd.DataFrame = field(default_factory=pd.DataFrame)
    cosines: pd.DataFrame = field(default_factory=pd.DataFrame)
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    patching: pd.DataFrame = field(default_factory=pd.DataFrame)
    locations: pd.DataFrame = field(default_factory=pd.DataFrame)
    encoded: pd.DataFrame = field(default_factory=pd.DataFrame)
    faithfulness: pd.DataFrame = field(default_factory=pd.DataFrame)
    faithfulness_curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    geometry: pd.DataFrame = field(default_factory=pd.DataFrame)
    margins: pd.DataFrame = field(default_factory=pd.DataFrame)
    head_texts: pd.DataFrame = field(default_factory=pd.DataFrame)
    attack: pd.DataFrame = field(default_factory=pd.DataFrame)
    attack_photos: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def shift(self) -> pd.DataFrame:
        """One row per photo, augmentation and severity: all of it, read when it is asked for."""
        return self.rows.read() if isinstance(self.rows, ShiftFile) else self.rows

    @property
    def trained_on(self) -> list[str]:
        """The augmentations that its model was fine-tuned on; empty for any other model."""
        return self.info.model.trained_on or []

    @property
    def below_floor(self) -> set[tuple[str, str]]:
        """Augmentations and severities whose shift rounding alone could make, in half precision.

        Their mean of 1 − cosine is below the 95th percentile of what float32 changes of a cosine.
        """
        means = self.summary[self.summary["measure"] == "cosine_similarity"]
        below = set()
        for name, severity, mean in means[["augmentation", "severity", "mean"]].to_numpy():
            floor = self.info.floor.get(name, {}).get(severity)
            if 1 - mean < (floor.p95 if floor else 0):
                below.add((name, severity))
        return below

    @property
    def matched_by(self) -> str | None:
        """The measure of distortion that severity ``matched`` is at, where the run has both."""
        name = self.info.matching.distortion if self.info.matching else None
        is_measured = name in self.columns and len(self.ranking) > 0
        return name if is_measured and self.ranking["distortion"].notna().any() else None

    @property
    def agreement(self) -> tuple[float, float, float] | None:
        """Kendall's τ between the rankings at the paper's and at matched severities.

        With its interval; None where the run has not both severities.
        """
        taus = self.info.paper_and_matched
        if taus is None:
            return None
        tau, *ends = (np.nan if v is None else v for v in (taus.tau, taus.ci_low, taus.ci_high))
        return tau, ends[0], ends[1]


TABLES = tuple(table.name for table in fields(Run) if table.type is pd.DataFrame)
"""The tables of a run beside ``shift.parquet``, by their names in `Run`."""
RESULTS = (
    "run.json",
    SHIFT,
    "columns.json",
    *(f"{table}.csv" for table in TABLES),
    *(f"{tensors}.safetensors" for tensors in ("embeddings", "views", "gaze", "gaze_heads")),
    CALIBRATION,
    "nearest.json",
    f"{LEADERBOARD}/*.json",
    EVAL_RESULTS,
    f"{FIGURES}/*.svg",
    f"{FIGURES}/*.png",
    "budget.md",
    "budget.xml",
    "report.html",
)
"""What an evaluation writes: names, or patterns of names."""


HASHED = frozenset({SHIFT, "columns.json", *(f"{table}.csv" for table in TABLES)})
"""The files that ``run.json`` may name with their SHA-256."""


def results_in(folder: Path) -> Iterator[Path]:
    """The files of a run in a folder, but for those in folders that are links."""
    for name in RESULTS:
        for file in folder.glob(name):
            if file.parent == folder or not file.parent.is_symlink():
                yield file


def clear_results(folder: Path) -> None:
    """Remove an earlier run's results, so that none of them is taken for one of the next run."""
    for file in results_in(folder):
        file.unlink()


def copy_results(source: Path, target: Path) -> None:
    """Let the results of a run be those of another folder as well: its files, and no others.

    ``run.json`` comes last: a run is complete by it.

    Raises:
        UserError: If a folder among them is a link.
    """
    clear_results(target)
    for file in sorted(results_in(source), key=lambda file: file.name == "run.json"):
        inside = file.relative_to(source)
        folder = target if inside.parent == Path() else subfolder(target, inside.parent.name)
        write_whole(folder / file.name, partial(shutil.copyfile, file))


@contextmanager
def misfits(what: str) -> Iterator[None]:
    """Say in one line that a run's files do not fit together, whatever they make fail.

    Args:
        what: The run or runs, in words.

    Raises:
        UserError: Then.
    """
    try:
        yield
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
        ValueError, pa.ArrowException,
    ) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {one_line(str(error))[:200]}"
        raise UserError(
            f"{what} cannot be shown: the files do not fit together ({reason}). Measure again"
        ) from error


def write_run(run: Run) -> None:
    """Write a run's tables, ``columns.json`` and, last, ``run.json`` with the SHA-256 of all.

    ``skipped.csv`` always, the other tables as CSV where they have rows; ``shift.parquet`` is there
    already.
    """
    tables = {name: getattr(run, name) for name in TABLES}
    written = {n: table for n, table in tables.items() if len(table) or n == "skipped"}
    for name, table in written.items():
        write_csv(run.folder / f"{name}.csv", table)
    write_json(run.folder / "columns.json", column_dictionary(run.rows, run.columns, written))
    files = [SHIFT, "columns.json", *(f"{name}.csv" for name in written)]
    hashes = {name: file_sha256(run.folder / name) for name in files}
    run.info = run.info.model_copy(update={"sha256": hashes})
    write_json(run.folder / "run.json", run.info.as_json())


def read_info(folder: Path) -> RunInfo:
    """What the ``run.json`` of a finished run says.

    Raises:
        UserError: If the folder holds none, or one that was interrupted.
    """
    try:
        info = typed(RUN_INFO, read_text(folder / "run.json"))
    except (OSError, ValueError) as error:
        raise UserError(f"no finished run in {folder}: run.json: {error}") from None
    if not info.complete:
        raise UserError(f"the run in {folder} was interrupted: run it again")
    return info


def read_run(folder: Path) -> Run:
    """Read a finished run; its files are taken for data and nothing else.

    Raises:
        UserError: If the folder holds none, one that was interrupted or measured no photo, or one
            whose files are no longer what was written, or do not belong together.
    """
    again = "measure it again"
    info = read_info(folder)
    try:
        for name, written in info.sha256.items():
            if name not in HASHED:
                raise ValueError(f"run.json names {name}, which is not a table of a run")
            if file_sha256(folder / name) != written:
                raise UserError(f"{folder / name} is not what the run wrote: {again}")
        if missing := [name for name in (SHIFT, "skipped.csv") if name not in info.sha256]:
            raise ValueError(f"run.json has no SHA-256 of {missing[0]}")
        rows = ShiftFile(folder / SHIFT)
        tables = {name: _read_table(folder, name, f"{name}.csv" in info.sha256) for name in TABLES}
        if not rows.empty:
            _check_names(info, rows, tables)
    except OSError as error:
        raise UserError(f"no finished run in {folder}: {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"the run in {folder} cannot be read ({error}): {again}") from None
    if rows.empty:
        raise UserError(f"the run in {folder} measured no photo: see its skipped.csv")
    return Run(folder, info, rows.facts, rows, **tables)


def _read_table(folder: Path, name: str, written: bool) -> pd.DataFrame:
    """A table of known columns: texts, numbers, and no more. Earlier versions wrote fewer."""
    columns = list(DEFINITIONS.get(name, ()))
    if not written:
        return pd.DataFrame(columns=columns)
    is_matrix = name in MATRICES
    with open_file(folder / f"{name}.csv") as stream:
        index = "augmentation" if is_matrix else None
        table = pd.read_csv(stream, dtype={"severity": str}, index_col=index)
    if not is_matrix:
        if unknown := set(table.columns) - set(columns):
            raise ValueError(f"{name}.csv: unknown column {min(unknown)}")
        table = table.assign(**{name: np.nan for name in columns if name not in table})
    for column in table:
        if column not in TEXTS and not is_numeric_dtype(table[column]):
            raise ValueError(f"{name}.csv: {column} holds something else than numbers")
    return table


def _check_names(info: RunInfo, rows: ShiftFile, tables: Mapping[str, pd.DataFrame]) -> None:
    """Make sure that tables and facts are of the same augmentations, severities and measures.

    Raises:
        ValueError: If one names another.
    """
    names, severities = (set(rows.variants.unique(key)) for key in ("augmentation", "severity"))
    if unknown := severities.difference(SEVERITIES):
        raise ValueError(f"{SHIFT} has the severity {min(unknown)}")
    several = len(severities) > 1
    views = {view_name(n, severity if several else None) for n, severity in rows.variants}
    allowed_in = {"augmentation": names | {CLEAN, ALL}, "other": names, "severity": severities}
    uses: list[tuple[str, set[str], Iterable[Any]]] = [
        ("run.json", views, info.strengths),
        ("run.json", names, info.config.aug),
        ("run.json", names | {CLEAN}, info.distortion),
        ("run.json", names | {CLEAN}, info.floor),
        ("run.json", names, info.matching.elasticity if info.matching else ()),
        *(
            (f"{name}.csv", allowed, table[column].dropna())
            for name, table in tables.items()
            for column, allowed in allowed_in.items()
            if column in table
        ),
        ("summary.csv", set(rows.facts), tables["summary"]["measure"]),
        *(
            (f"{name}.csv", views | {CLEAN}, axis)
            for name in MATRICES
            if len(table := tables[name])
            for axis in (table.columns, table.index)
        ),
    ]
    for file, allowed, used in uses:
        if unknown := set(used) - allowed:
            raise ValueError(f"{file} names {min(map(str, unknown))}, which {SHIFT} does not")
    if set(info.strengths) != views:
        raise ValueError(f"run.json has no strength of {min(views - set(info.strengths))}")
