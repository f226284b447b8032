"""Convert charts to Vega-Lite, SVG and PNG."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from stat import S_IWGRP, S_IWOTH
from typing import Any

import altair as alt
import vl_convert

from clipshift.report.charts.look import MUTED, config
from clipshift.results.files import file_name, subfolder, write_whole
from clipshift.severities import view_name

Chart = alt.TopLevelMixin
"""Any of Altair's charts."""
Spec = dict[str, Any]
"""A chart in Vega-Lite's own words."""

VEGALITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes, and that draws pages and files."""
WIDTH = 680
"""Width in pixels of the file of a chart that takes its page's width."""
PNG_SCALE = 2


def spec_of(chart: Chart) -> Spec:
    """A chart as Vega-Lite has it; slow, as it copies the chart's tables."""
    spec: Spec = chart.to_dict(validate=False)
    return spec


def severities_of(spec: Spec) -> list[str]:
    """The severities that a chart lets its reader choose from; empty where there is no choice."""
    binds = [param["bind"] for param in spec.get("params", []) if param["name"] == "severity"]
    return list(binds[0]["options"]) if binds else []


def standalone(spec: Spec, severity: str | None = None) -> Spec:
    """A chart of one severity, without the dropdown to choose it and without its own colours.

    Args:
        spec: From `spec_of`; it is not changed.
        severity: Which severity to show; None for the first.
    """
    alone = {name: value for name, value in spec.items() if name != "config"}
    if "params" in spec:
        choice = {"name": "severity"}
        alone["params"] = [
            choice | {"value": severity or param["value"]} if param["name"] == "severity" else param
            for param in spec["params"]
        ]
    if spec.get("width") == "container":
        alone["autosize"] = {"type": "fit-x", "contains": "padding"}
    return alone


def svg(spec: Spec, severity: str | None = None, source: str = "") -> str:
    """A chart of one severity as SVG.

    Args:
        spec: From `spec_of`.
        severity: Which severity to show; None for the first.
        source: What it was made from, to stand below it.
    """
    alone = standalone(spec, severity)
    if alone.get("width") == "container":
        alone["width"] = WIDTH
    if source:
        alone["title"] = source_line(source)
    colors = config(back="white")
    text: str = vl_convert.vegalite_to_svg(alone, vl_version=VEGALITE, config=colors)
    return text


@lru_cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which a page holds in itself.

    Packing takes two seconds, so that the script is kept in the cache folder: the SHA-256 of its
    text, and the text. A file that is damaged or that others can write is not used.
    """
    folder = Path(os.environ.get("CLIPSHIFT_CACHE", "~/.cache/clipshift")).expanduser()
    file = folder / f"vega-{VEGALITE}-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError, AttributeError):  # Windows has no getuid
        status = file.stat()
        digest, _, text = file.read_text("utf-8").partition("\n")
        is_ours = status.st_uid == os.getuid() and not status.st_mode & (S_IWGRP | S_IWOTH)
        if is_ours and digest == hashlib.sha256(text.encode()).hexdigest():
            return text
    bundle = vl_convert.javascript_bundle(vl_version=VEGALITE)  # type: ignore[call-arg]
    text = bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--")
    content = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(Path.write_text, data=content, encoding="utf-8", newline=""))
        file.chmod(0o644)
    return text


def source_line(source: str) -> Spec:
    """The title below a chart's file that says what it was made from."""
    style = {"fontSize": 10, "fontWeight": "normal", "color": MUTED}
    return {"text": source, "orient": "bottom", "offset": 12, **style}


def save_figures(figures: Mapping[str, Spec], folder: Path, source: str) -> dict[str, Path]:
    """Write charts as SVG and PNG, one of each for every severity that a chart can show.

    Args:
        figures: By name.
        folder: Where to.
        source: What they were made from: it stands below each.

    Returns:
        The PNG files by figure name, with ``@SEVERITY`` where there are several.
    """
    folder = subfolder(folder.parent, folder.name)
    paths = {}
    for name, spec in figures.items():
        for severity in severities_of(spec) or [""]:
            title = view_name(name, severity)
            text = svg(spec, severity, source)
            png = vl_convert.svg_to_png(text, scale=PNG_SCALE)
            file = folder / file_name(title)
            write_whole(Path(f"{file}.svg"), partial(Path.write_text, data=text, encoding="utf-8"))
            paths[title] = Path(f"{file}.png")
            write_whole(paths[title], partial(Path.write_bytes, data=png))
    return paths
