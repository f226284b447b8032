"""The demo's page on localhost, made with Gradio: needs the extra ``clipshift[demo]``.

The page loads nothing from the network, and what is dragged in is gone when the demo ends.
"""

import base64
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import vl_convert

from clipshift.augment.keyed import Augmentation
from clipshift.augment.variants import Variant, make_variants
from clipshift.data.dataset import as_picture
from clipshift.data.sources import sample
from clipshift.demo.photo import Model, measure_photo, nearest
from clipshift.errors import UserError
from clipshift.report.charts.gaze import draw_pictures, gaze_over_each
from clipshift.report.charts.look import looks
from clipshift.report.charts.vega import PNG_SCALE, spec_of, svg
from clipshift.report.explorer import data_url
from clipshift.report.page import template
from clipshift.results.measured import CLEAN, Measured
from clipshift.severities import LADDER, PAPER

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""The ``Host`` under which the page is asked for on its own machine."""
MAX_UPLOAD = "50mb"
"""The largest photograph that is taken."""
ANSWER = template("clipshift.demo", "answer.html.jinja")
OPENING = "chelsea.png"
"""The built-in photograph that the page opens with."""
NONE = "none"
SAVE_LINK = "link => Object.assign(document.createElement('a'), link).click()"
"""Saves what `Answer.sheet` returns."""


@dataclass(frozen=True)
class Answer:
    """What the page shows of a photograph.

    Attributes:
        photo: Its file's name.
        severity: Of all augmentations.
        variants: Augmentations at that severity, by name.
        seen: One model, or two, each with what it measured, from `measure_photo`.
    """

    photo: str
    severity: str
    variants: Mapping[str, Variant]
    seen: Sequence[tuple[Model, Measured]]

    def numbers(self) -> dict[str, list[dict[str, Any]]]:
        """By augmentation a row for each model; what shifts the first model most comes first."""

        def row(name: str, model: Model, of: Measured) -> dict[str, Any]:
            shifts = ("relative_shift", "cosine_similarity")
            return {
                "photo": self.photo,
                "augmentation": name,
                "severity": self.severity,
                "strength": self.variants[name].strength,
                "model": model.name,
                **{measure: float(of.values[name, measure][0]) for measure in shifts},
                "trained_on": name in model.trained_on,
            }

        rows = {name: [row(name, *of) for of in self.seen] for name in self.variants}
        by_shift = sorted(rows, key=lambda name: -rows[name][0]["relative_shift"])
        return {name: rows[name] for name in by_shift}

    def pictures(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Data URLs by view: of the views, then for each model of its gaze on one scale."""
        pixels = self.seen[0][1].views
        views = {name: as_picture(torch.from_numpy(pixels[name][0])) for name in names}
        gazes = [{name: gaze[0] for name, gaze in of.gazes.items()} for _, of in self.seen]
        rows = [views, *(gaze_over_each(views, gaze) for gaze in gazes)]
        return [{name: data_url(picture) for name, picture in row.items()} for row in rows]

    def page(self, chosen: str) -> str:
        """The answer as HTML.

        Args:
            chosen: The augmentation whose pictures are large. Where it has no strength at this
                severity, it is the one that shifts the first model most.
        """
        numbers = self.numbers()
        chosen = chosen if chosen in numbers else next(iter(numbers))
        pair = (CLEAN, chosen)
        classes = [[nearest(of, model, view) for view in pair] for model, of in self.seen]
        models = [model for model, _ in self.seen]
        table = pd.DataFrame([row for rows in numbers.values() for row in rows])
        return ANSWER.render(
            answer=self,
            chosen=chosen,
            numbers=numbers,
            views=self.pictures([CLEAN, *numbers])[0],
            models=list(zip(models, self.pictures(pair)[1:], classes, strict=True)),
            looks=looks(list(numbers)),
            csv=table.to_csv(index=False),
        )

    def sheet(self) -> dict[str, str]:
        """All views and the gaze on them in one picture: the attributes of a link to a PNG."""
        numbers, cells = self.numbers(), {}
        for row, pictures in enumerate(self.pictures([CLEAN, *numbers])):
            for name, picture in pictures.items():
                shift = numbers[name][max(row - 1, 0)]["relative_shift"] if name != CLEAN else 0
                cells[f"{name} {shift:.3f}{row * ' '}"] = picture  # no other row has this label
        models = " and ".join(model.name for model, _ in self.seen)
        title = f"{self.photo}, severity {self.severity}: relative shift and gaze of {models}"
        drawn = svg(spec_of(draw_pictures(cells, title, columns=1 + len(numbers))))
        png = base64.b64encode(vl_convert.svg_to_png(drawn, scale=PNG_SCALE)).decode()
        file = f"{Path(self.photo).stem}-{self.severity}.png"
        return {"href": f"data:image/png;base64,{png}", "download": file}


def make_demo(
    models: Mapping[str, Callable[[], Model]],
    augmentations: Mapping[str, Augmentation],
    ladders: Mapping[str, Sequence[float]],
    seed: int = 0,
    two: bool = False,
) -> gr.Blocks:
    """The demo's page, which opens with the answer for a built-in photograph.

    Args:
        models: What loads each model, by name; the first is shown.
        augmentations: By name.
        ladders: Strengths at severity 1 to 5, by augmentation.
        seed: Of every random draw.
        two: Whether the page opens with the second model beside the first.

    Raises:
        UserError: If a model that the page opens with cannot be loaded.
    """
    examples = {photo.id: str(photo.file) for photo in sample()}
    names = list(models)
    second = names[1] if two else NONE

    @lru_cache(maxsize=12)
    def answer(
        file: str | None, example: str | None, model: str, beside: str, paper: bool, step: float
    ) -> Answer:
        severity = PAPER if paper else str(int(step))
        possible = {n: a for n, a in augmentations.items() if paper or n in ladders}
        variants = make_variants(possible, ladders, [severity], {})
        photo = Path(file or examples[example or OPENING])
        chosen = [models[name]() for name in dict.fromkeys((model, beside)) if name != NONE]
        seen = [(model, measure_photo(photo, model, variants, seed)) for model in chosen]
        return Answer(photo.name, severity, variants, seen)

    def show(name: str, *inputs: Any) -> str:
        try:
            return answer(*inputs).page(name)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def pressed(event: gr.EventData) -> str:
        return str(event.name)

    choice = partial(gr.Dropdown, filterable=False, min_width=110)
    opening = answer(None, OPENING, names[0], second, True, 3)
    with gr.Blocks(title="clipshift demo", analytics_enabled=False, fill_width=True) as demo:
        gr.HTML("<h1>How far does an augmentation shift an image’s embedding?</h1>")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                example = choice(list(examples), value=OPENING, label="Photograph")
                file = gr.File(label="Or one of yours", file_types=["image"], height=120)
                with gr.Row():
                    model = choice(names, label="Model")
                    beside = choice([NONE, *names], value=second, label="Beside it")
                chosen = choice(list(augmentations), label="Augmentation")
                paper = gr.Checkbox(True, label="At the paper’s strengths")
                step = gr.Slider(
                    1, len(LADDER), 3, step=1, label="Or at severity", visible=bool(ladders)
                )
            with gr.Column(scale=3, min_width=300):
                html = opening.page(next(iter(augmentations)))
                shown = gr.HTML(html, elem_id="answer", js_on_load=asset("demo.js"))
                saved = gr.JSON(visible=False)
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        example.input(lambda: None, None, file, **quiet)
        file.upload(lambda: None, None, example, **quiet)
        file.clear(lambda: OPENING, None, example, **quiet)
        step.input(lambda: False, None, paper, **quiet)
        shown.select(pressed, None, chosen, **quiet)
        inputs: list[Any] = [file, example, model, beside, paper, step]
        drawn = shown.submit(lambda *inputs: answer(*inputs).sheet(), inputs, saved)
        drawn.then(None, saved, None, js=SAVE_LINK)
        changes = [part.change for part in (chosen, *inputs)]
        options: dict[str, Any] = {"show_progress": "minimal", "trigger_mode": "always_last"}
        gr.on(changes, show, [chosen, *inputs], shown, **options)
    return demo


def asset(name: str) -> str:
    """A file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


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


def launch(demo: gr.Blocks, port: int, public: bool = False, **options: Any) -> str:
    """Show the page on localhost, and return at once.

    Args:
        demo: From `make_demo`.
        port: Of localhost.
        public: Answer any machine under any name, as on a Hugging Face Space.
        options: What else Gradio's ``launch`` takes.

    Returns:
        The page's address.

    Raises:
        UserError: If the port is in use.
    """
    private = {"middleware": [Middleware(OwnPageOnly)]}
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = demo.launch(
            server_name="0.0.0.0" if public else "127.0.0.1",
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            app_kwargs={} if public else private,
            theme=theme,
            css=asset("demo.css"),
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
