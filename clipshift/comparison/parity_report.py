"""The report of a parity: its files and its page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from clipshift.comparison.parity import Parity
from clipshift.data.photos import decode
from clipshift.evaluate.evaluation import model_facts
from clipshift.report.charts.gaze import draw_pictures
from clipshift.report.explorer import data_url
from clipshift.report.page import Page, write_page
from clipshift.report.prose import make_section, prose
from clipshift.results.files import write_csv, write_json
from clipshift.results.intervals import mean_interval
from clipshift.versions import provenance

SHOWN, GAIN = 4, 8
"""How many photos a page shows, and how many times as strong their differences."""


def step_table(parity: Parity) -> pd.DataFrame:
    """One row per step: its words, mean with interval, 5th percentile and the worst photo's."""
    rows = []
    for column, step in prose()["parity"]["steps"].items():
        sign = -1 if column == "pixel_mean" else 1  # of which more is worse
        if len(values := sign * parity.table[column].dropna()):
            ends = sign * np.array([values.quantile(0.05), values.min()])
            rows.append([step, sign * values.mean(), *mean_interval(sign * values, 0), *ends])
    return pd.DataFrame(rows, columns=["step", "mean", "ci_low", "ci_high", "fifth", "worst"])


def report_parity(parity: Parity, folder: Path) -> Path:
    """Write ``parity.csv``, ``parity.json`` and ``parity.html``, and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stacks, steps = {"A": parity.a, "B": parity.b}, step_table(parity)
    models = {name: {"name": one.name} | model_facts(one.encoder) for name, one in stacks.items()}
    facts = {"passed": parity.passed, "tolerance": parity.tolerance, "verdict": parity.verdict}
    facts |= {"rounding": parity.rounding if np.isfinite(parity.rounding) else None}
    facts |= {"steps": json.loads(steps.to_json(orient="records"))} | models | provenance()
    write_csv(folder / "parity.csv", parity.table)
    write_json(folder / "parity.json", facts)
    pictures: dict[str, str] = {}
    for index in parity.decisive.sort_values(kind="stable").index[:SHOWN]:
        photo = parity.photos[index]
        image = decode(photo.read())
        seen = {name: one.pixels([image])[0].clamp(0, 1) for name, one in stacks.items()}
        if seen["A"].shape == seen["B"].shape:
            seen["A − B"] = (0.5 + GAIN * (seen["A"] - seen["B"])).clamp(0, 1)
        pictures |= {f"{photo.id}, {name}": data_url(pixels) for name, pixels in seen.items()}
    drawn = {"pictures": draw_pictures(pictures, columns=3 if len(pictures) % 3 == 0 else 2)}
    section = make_section("parity", drawn, [steps], parity=parity, gain=GAIN)
    measured = prose()["parity"]["measured"].format(parity=parity)
    title = f"Parity of {parity.a.name} and {parity.b.name}"
    origin = {f"{name}, {fact}": value for name, of in models.items() for fact, value in of.items()}
    page = Page(title, parity.verdict, measured, (), None, [section], origin)
    return write_page(folder / "parity.html", page)
