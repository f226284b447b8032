"""The demo's page on localhost, made with Gradio: needs the extra ``clipshift[demo]``.

The page loads nothing from the network, and what is dragged in is gone when the demo ends.
"""

import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from clipshift.augment.keyed import Augmentation
from clipshift.augment.variants import make_variants
from clipshift.demo.photo import Model, measure_photo, nearest
from clipshift.errors import UserError
from clipshift.report.charts.gaze import gaze_over_each
from clipshift.report.charts.look import looks
from clipshift.report.explorer import as_picture, data_url
from clipshift.report.page import template
from clipshift.results.measured import CLEAN, Measured
from clipshift.severities import LADDER, PAPER

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""The ``Host`` under which the page is asked for on its own machine."""
MAX_UPLOAD = "50mb"
"""The largest photograph that is taken."""
FONTS = ["system-ui", "sans-serif"]
ANSWER = template("clipshift.demo", "answer.html.jinja")


def make_demo(
    models: Sequence[Model],
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
    seed: int = 0,
) -> gr.Blocks:
    """The demo's page.

    Args:
        models: One model, or two to be seen side by side.
        augmentations: By name.
        ladders: Strengths at severity 1 to 5, by augmentation.
        seed: Of every random draw.
    """

    @lru_cache(maxsize=12)
    def measure(file: str, severity: str) -> tuple[list[Measured], float]:
        start = time.perf_counter()
        variants = make_variants(augmentations, ladders, [severity], {})
        measured = [measure_photo(Path(file), model, variants, seed) for model in models]
        return measured, time.perf_counter() - start

    def answer(file: str | None, augmentation: str, paper: bool, step: float) -> str:
        if file is None:
            return ANSWER.render(models=[])
        severity = PAPER if paper else str(int(step))
        try:
            measured, seconds = measure(file, severity)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return answer_page(models, measured, augmentation, severity, seconds)

    with gr.Blocks(title="clipshift demo", analytics_enabled=False, fill_width=True) as demo:
        gr.HTML("<h1>What does it take to move an embedding?</h1>")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Photograph", file_types=["image"], height=150)
                augmentation = gr.Dropdown(list(augmentations), label="Augmentation")
                paper = gr.Checkbox(True, label="At the paper’s strengths")
                step = gr.Slider(
                    1, len(LADDER), 3, step=1, label="Severity", interactive=True, visible=False
                )
            with gr.Column(scale=3, min_width=300):
                shown = gr.HTML(answer(None, "", True, 1), elem_id="answer")
        paper.change(
            lambda chosen: gr.update(visible=not chosen), paper, step, show_progress="hidden"
        )
        inputs: list[Any] = [file, augmentation, paper, step]
        changes = [part.change for part in inputs]
        options: dict[str, Any] = {"show_progress": "minimal", "trigger_mode": "always_last"}
        gr.on(changes, answer, inputs, shown, **options)
    return demo


def answer_page(
    models: Sequence[Model],
    measured: Sequence[Measured],
    augmentation: str,
    severity: str,
    seconds: float,
) -> str:
    """The page's answer for a photograph, as HTML.

    Args:
        models: The models.
        measured: What each of them measured, from `measure_photo`.
        augmentation: The one to show.
        severity: At which it was measured.
        seconds: How long that took.
    """
    views = (CLEAN, augmentation)
    pictures = {view: as_picture(torch.from_numpy(measured[0].views[view][0])) for view in views}
    seen: list[dict[str, Any]] = []
    for model, of in zip(models, measured, strict=True):
        gaze = {view: of.gazes[view][0] for view in views} if of.gazes else {}
        seen.append(
            {
                "name": model.name,
                "gaze": [data_url(picture) for picture in gaze_over_each(pictures, gaze).values()],
                "kind": model.encoder.probe.kind if model.encoder.probe else "",
                "nearest": [nearest(of, model, view) for view in views],
                "shifts": shifts(of, model),
            }
        )
    names = sorted(seen[0]["shifts"], key=lambda name: -seen[0]["shifts"][name]["relative"])
    return ANSWER.render(
        models=seen,
        names=names,
        chosen=augmentation,
        severity=severity,
        pictures=[data_url(picture) for picture in pictures.values()],
        colors={name: look.color for name, look in looks(names).items()},
        most=max([1.0] + [row["relative"] for of in seen for row in of["shifts"].values()]),
        seconds=seconds,
    )


def shifts(measured: Measured, model: Model) -> dict[str, dict[str, Any]]:
    """How far each augmentation shifts the photograph's embedding, by its name."""
    return {
        name: {
            "cosine": float(values[0]),
            "relative": float(measured.values[name, "relative_shift"][0]),
            "trained_on": name in model.trained_on,
        }
        for (name, measure), values in measured.values.items()
        if measure == "cosine_similarity"
    }


class OwnPageOnly:
    """Refuses requests that do not come from the demo's own page on this machine.

    Another site's page can send requests to 127.0.0.1 as well: under a name that it lets point here
    (DNS rebinding), which is in ``Host``, or across origins, which is in ``Origin``.

    Args:
        app: What answers the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            page = f"http://{host}"
            if not LOCAL.fullmatch(host) or headers.get("origin", page) != page:
                refusal = PlainTextResponse("clipshift demo answers only its own page", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def launch(demo: gr.Blocks, port: int, **options: Any) -> str:
    """Show the page on localhost, and return at once.

    Args:
        demo: From `make_demo`.
        port: Of localhost.
        options: What else Gradio's ``launch`` takes.

    Returns:
        The page's address.

    Raises:
        UserError: If the port is in use.
    """
    theme = gr.themes.Base(font=FONTS, font_mono=["monospace"])
    css = Path(__file__).with_name("demo.css").read_text(encoding="utf-8")
    try:
        _, address, _ = demo.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(OwnPageOnly)]},
            theme=theme,
            css=css,
            **options,
        )
    except OSError:
        raise UserError(f"port {port} is in use: choose another, as in port={port + 1}") from None
    return str(address)


def serve(demo: gr.Blocks, port: int, in_browser: bool) -> None:
    """Show the page on localhost until the demo is stopped.

    Args:
        demo: From `make_demo`.
        port: Of localhost.
        in_browser: Whether to open it in a browser.

    Raises:
        UserError: If the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="clipshift-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where dragged photographs go
        try:
            address = launch(demo, port, inbrowser=in_browser)
            print(f"demo: {address} (Ctrl-C ends it)", flush=True)
            demo.block_thread()
        finally:
            demo.close(verbose=False)
