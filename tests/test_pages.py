"""The report in a browser: what it asks for, and what sorting, filtering and enlarging do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support.augmentations import augmentations_named
from support.columns import all_columns
from support.runs import run_info

from clipshift.comparison.leaderboard import make_leaderboard
from clipshift.comparison.pair import Pair
from clipshift.comparison.pair_report import write_comparison
from clipshift.comparison.sweep import Sweep
from clipshift.comparison.sweep_report import sweep_page
from clipshift.data.dataset import ViewDataset
from clipshift.data.sources import sample
from clipshift.report import explorer
from clipshift.report.charts.gaze import HEAT
from clipshift.report.charts.vega import WIDTH
from clipshift.report.page import Page, link_comparison, write_page
from clipshift.report.run import report_page
from clipshift.results.files import write_json
from clipshift.results.paired import compare_photos
from clipshift.results.ranking import correlate, rank_augmentations, ranking_agreement
from clipshift.results.runs import Run
from clipshift.results.table import summarize

HOSTILE = "</script><script>window.hacked = 1</script>.png"
HOSTILE_CLASS = '"><img src=x onerror="window.hacked = 1">'
NAMES = ["noise", "blur", "flip"]


def made_run(folder: Path, severities: tuple[str, ...], model: str = "small") -> Run:
    """A run of six photographs with numbers from a generator, gaze and nearest classes."""
    rng = np.random.default_rng(sum(map(ord, model)))
    several = len(severities) > 1
    photos = [photo.id for photo in page_photos(("noise",)).photos]
    labels = {photo.id: photo.label for photo in page_photos(("noise",)).photos}
    rows = []
    for severity in severities:
        for name in NAMES:
            size = {"noise": 0.6, "blur": 0.3, "flip": 0.1}[name]
            size = 0.7 - size if severity == "matched" else size
            for photo in photos:
                shift = size * rng.uniform(0.9, 1.1)
                distances = dict.fromkeys(("gaze_divergence", "gaze_divergence_aligned"), 0.1)
                rows.append(
                    {"photo": photo, "label": labels[photo], "augmentation": name,
                     "severity": severity, "cosine_similarity": 1 - shift,
                     "relative_shift": shift / 0.8, "distance_to_others": rng.uniform(0.7, 0.9),
                     "rmse": shift * rng.uniform(0.5, 1), "brightness": rng.uniform(0.2, 0.8)}
                    | distances
                )  # fmt: skip
    shift = pd.DataFrame(rows).sort_values("photo", kind="stable", ignore_index=True)
    views = [f"{name}@{s}" if several else name for s in severities for name in NAMES]
    gaze = {view: rng.uniform(0.1, 1, (6, 2, 3)).astype(np.float32) for view in ["clean", *views]}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(gaze, folder / "gaze.safetensors", {"photos": json.dumps(photos)})
    nearest = {v: [[HOSTILE_CLASS, 0.5], ["cat", 0.25]] for v in ["clean", *views]}
    write_json(folder / "nearest.json", dict.fromkeys(photos, nearest))
    columns = {name: all_columns()[name] for name in shift if name in all_columns()}
    distances = pd.DataFrame(
        1 - np.eye(len(views)), index=pd.Index(views, name="augmentation"), columns=views
    )
    facts: dict[str, Any] = {
        "model": {"name": model, "architecture": "ViT", "gaze": "attention"},
        "data": {"photos": 6},
        "spread": 0.8,
        "gallery": 6,
        "strengths": dict.fromkeys(views, 1.0),
    }
    if {"paper", "matched"} <= set(severities):
        found = ranking_agreement(shift, ("paper", "matched"), 0)
        facts["paper_and_matched"] = dict(zip(("tau", "ci_low", "ci_high"), found, strict=True))
    return Run(
        folder, run_info(**facts), columns, shift, summarize(shift, columns, 0), distances,
        distances, distances, rank_augmentations(shift, 0), correlate(shift, columns),
    )  # fmt: skip


def page_photos(names: tuple[str, ...] = tuple(NAMES)) -> ViewDataset:
    photos = [replace(photo, label=photo.label or "thing") for photo in sample()[:6]]
    photos[0] = replace(photos[0], id=HOSTILE, label=HOSTILE_CLASS)
    return ViewDataset(photos, augmentations_named(*names), 0, "squash")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("pages"), ("paper", "matched"))


def folded_page(run: Run) -> Page:
    """A run's page, with a section that is folded."""
    page = report_page(run, page_photos())
    page.sections[-2].finding = "`noise` correlates."
    return page


@pytest.fixture(scope="module")
def report(run: Run) -> Path:
    return write_page(run.folder / "report.html", folded_page(run))


@pytest.fixture(scope="module")
def comparison(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    other = made_run(folder / "b", ("paper", "matched"), "other")
    table = compare_photos(run.shift, other.shift, run.columns, 0)
    pairs = [Pair(run, other, [], table)]
    return write_comparison(folder, [run, other], pairs, ["A note."], page_photos())


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page, when it has drawn its charts; it must have asked for nothing and erred nowhere."""
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("dialog", lambda dialog: faults.append(dialog.message))
    kept = ("data:", "blob:")  # what the page itself holds
    tab.on("request", lambda r: faults.append(r.url) if not r.url.startswith(kept) else None)
    tab.goto(file.as_uri())
    tab.wait_for_function("() => containers.filter(inView).every(one => one.querySelector('svg'))")
    yield tab
    assert faults == [file.as_uri()]
    assert tab.evaluate("window.hacked") is None
    context.close()


def first_cells(tab: Any, table: str) -> list[str]:
    """The first cells of a table's rows that can be seen."""
    rows = tab.locator(f"{table} tbody tr:visible th").all_inner_texts()
    return [str(text) for text in rows]


def ranked(run: Run, severity: str) -> list[str]:
    means = run.shift[run.shift["severity"] == severity].groupby("augmentation")["relative_shift"]
    return list(means.mean().sort_values(ascending=False).index)


# --- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["report", "comparison"])
def test_a_page_is_accessible_at_any_width_and_in_any_colours(
    browser: Any, request: pytest.FixtureRequest, page: str
) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe is not installed")
    with opened(browser, request.getfixturevalue(page)) as tab:
        for turn, (width, scheme) in enumerate(product((390, 1440), ("light", "dark"))):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.emulate_media(color_scheme=scheme)
            tab.evaluate("drawAll()")
            if turn in (0, 3):  # with a photo enlarged: at either width, in either scheme
                tab.locator(".card").first.click()
            found = axe.Axe().run(tab, options={"resultTypes": ["violations"]})["violations"]
            bad = [v for v in found if v["impact"] in ("serious", "critical")]
            assert [(v["id"], v["nodes"][0]["html"]) for v in bad] == []
            tab.keyboard.press("Escape")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            charts = tab.locator(".vega[data-chart]")
            assert charts.count() == charts.locator("svg").count() > 1
            ink = tab.locator(".vega svg text").first.evaluate("node => node.getAttribute('fill')")
            assert (ink > "#888888") == (scheme == "dark")


INJECTED = """
<script>window.hacked = 1; fetch("{canary}/inline");</script>
<img src="{canary}/image" onerror="window.hacked = 1">
<link rel="stylesheet" href="{canary}/style">
<style>main {{ background: url({canary}/background) }}</style>
<script src="{canary}/script"></script><iframe src="{canary}/frame"></iframe>
<object data="{canary}/object"></object>
"""
RUN_BY_A_SCRIPT_OF_THE_PAGE = """canary => {
    fetch(canary + "/fetch", { mode: "no-cors" }).catch(() => {});
    navigator.sendBeacon(canary + "/beacon");
    new Image().src = canary + "/made";
    try { new WebSocket(canary.replace("http", "ws") + "/socket"); } catch { }
    const code = document.createElement("script");
    code.textContent = "window.hacked = 1";
    document.body.append(code);
    const form = document.createElement("form");
    Object.assign(form, { action: canary + "/form", target: "elsewhere" });
    document.body.append(form);
    form.submit();
}"""


@pytest.mark.parametrize("protected", [True, False])
def test_not_even_a_script_in_a_page_reaches_the_network(
    browser: Any, report: Path, tmp_path: Path, protected: bool
) -> None:
    asked: set[str] = set()

    class Canary(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path.partition("?")[0])
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Canary)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    canary = f"http://127.0.0.1:{server.server_port}"
    text = report.read_text(encoding="utf-8")
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    if not protected:
        text = text[:start] + text[text.index(">", start) + 1 :]
    file = tmp_path / "report.html"
    file.write_text(text.replace("</main>", INJECTED.format(canary=canary) + "</main>"))
    tab = browser.new_page()
    try:
        tab.goto(file.as_uri())
        tab.evaluate(RUN_BY_A_SCRIPT_OF_THE_PAGE, canary)
        tab.wait_for_timeout(500)
        if protected:
            assert asked == set()
            assert tab.evaluate("window.hacked") is None
            tab.evaluate("drawAll()")  # and the page is as it was
            assert tab.locator(".vega svg").count() > 1
        else:  # so each of these ways leads out
            ways = ("inline", "image", "style", "background", "script", "frame", "object")
            ways = (*ways, "fetch", "beacon", "made", "socket", "form")
            assert asked >= {f"/{way}" for way in ways}
            assert tab.evaluate("window.hacked") == 1
    finally:
        tab.close()
        server.shutdown()


def test_a_box_says_that_it_scrolls_and_keeps_its_first_column(browser: Any, report: Path) -> None:
    with opened(browser, report, 390) as tab:
        box = tab.locator("#measures .scroll")
        assert "more-right" in box.get_attribute("class")
        head = box.locator("tbody th").first
        before = head.bounding_box()["x"]
        box.evaluate("box => { box.scrollLeft = 200; }")
        assert head.bounding_box()["x"] == before
        tab.wait_for_function("document.querySelector('#measures .more-left')")


def test_before_printing_all_charts_are_there_in_light_colours(browser: Any, report: Path) -> None:
    with opened(browser, report, scheme="dark") as tab:
        assert not tab.locator("#figure-correlations").is_visible()
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.locator("#figure-correlations svg").is_visible()
        tab.wait_for_function(
            """() => [...document.querySelectorAll(".vega[data-chart] svg text")].every(
                text => (text.getAttribute("fill") || "#000") < "#888888")"""
        )
        texts = tab.locator(".vega svg text").evaluate_all(
            "nodes => nodes.map(node => node.getAttribute('fill')).filter(Boolean)"
        )
        assert max(texts) < "#888888"


# --- the report ----------------------------------------------------------------------------------


def test_the_first_screen_has_answer_rankings_and_the_largest_shift(
    browser: Any, report: Path, run: Run
) -> None:
    largest = run.shift[run.shift["severity"] == "paper"].nlargest(1, "relative_shift").iloc[0]
    with opened(browser, report, 1440) as tab:
        figures = tab.locator("main figure.chart").evaluate_all("all => all.map(one => one.id)")
        assert figures[:2] == ["figure-agreement", "figure-ranking"]
        assert tab.locator("#largest").bounding_box()["y"] < 100
        said = tab.locator("#largest-text").inner_text()
        assert said.endswith(f"{largest['label']}, relative shift {largest['relative_shift']:.3f}.")
        captions = tab.locator("#largest .views figcaption").all_inner_texts()
        view = f"{largest['augmentation']} (paper)"
        assert captions == ["clean", view, "gaze, clean", f"gaze, {view}"]
        tab.locator("#largest-open").click()
        assert tab.locator("#photo-name").inner_text() == largest["photo"]
        tab.keyboard.press("Escape")
        folded = tab.locator("#figure-correlations")
        assert not folded.is_visible()
        tab.locator(".findings a").click()
        assert folded.locator("svg").is_visible()


def test_a_mailed_page_has_no_dead_link(
    browser: Any, report: Path, run: Run, tmp_path: Path
) -> None:
    """Alone in another folder, it gives its figures and tables all the same."""
    file = tmp_path / "mailed.html"
    file.write_bytes(report.read_bytes())
    with opened(browser, file, scheme="dark") as tab:
        links = tab.locator("[href]").evaluate_all(
            "all => all.map(one => one.getAttribute('href'))"
        )
        assert {link[0] for link in links if link != "data:,"} == {"#"}
        assert all(
            tab.locator(link).count() == 1 for link in links if len(link) > 1 and "#" in link
        )

        def saved(button: str) -> Path:
            with tab.expect_download() as download:
                tab.locator(button).first.click()
            path = tmp_path / download.value.suggested_filename
            download.value.save_as(path)
            return path

        svg = saved("#figure-ranking [data-save=svg]")
        assert all(f">{name}</text>" in svg.read_text() for name in [*NAMES, "rank 1"])
        assert 'fill="white"' in svg.read_text()  # on a dark page as well
        png = saved("#figure-agreement [data-save=png]")
        assert Image.open(png).size[0] >= 2 * WIDTH
        assert saved("#measures [data-save=png]").stat().st_size > 10000
        table = pd.read_csv(saved("#ranking [data-save=csv]"))
    expected = run.ranking.set_index(["severity", "augmentation"])
    rows = table.set_index(["severity", "augmentation"])
    assert len(rows) == len(expected) == 6
    for head, column, tolerance in (
        ("1 − cosine", "shift", 1e-12), ("1 − cosine low", "ci_low", 5.1e-4),
        ("1 − cosine high", "ci_high", 5.1e-4), ("photos", "n", 0),
    ):  # fmt: skip
        np.testing.assert_allclose(rows[head], expected.loc[rows.index, column], atol=tolerance)


def test_tables_sort_by_any_column(browser: Any, report: Path, run: Run) -> None:
    rows = run.summary[
        (run.summary["severity"] == "paper") & (run.summary["measure"] == "cosine_similarity")
    ]
    largest = list(rows.sort_values("mean", ascending=False)["augmentation"])
    with opened(browser, report) as tab:
        head = tab.locator("#measures th button", has_text="cosine")
        head.click()
        assert first_cells(tab, "#measures") == largest
        head.click()
        assert first_cells(tab, "#measures") == largest[::-1]
        assert head.locator("..").get_attribute("aria-sort") == "ascending"
        tab.locator("#measures th button", has_text="augmentation").click()
        assert first_cells(tab, "#measures") == sorted(NAMES, reverse=True)


def test_one_choice_of_severity_changes_tables_charts_and_files(
    browser: Any, report: Path, run: Run
) -> None:
    with opened(browser, report) as tab:
        for severity in ("paper", "matched"):
            tab.locator("#severity").select_option(severity)
            assert first_cells(tab, "#ranking .table") == ranked(run, severity)
            # the chart follows as soon as it is drawn anew
            tab.wait_for_function(
                """names => [...document.querySelectorAll("#figure-ranking svg text")]
                    .filter(text => names.includes(text.textContent))
                    .map(text => [text.getBoundingClientRect().top, text.textContent])
                    .sort(([a], [b]) => a - b).map(([, text]) => text).join() === names.join()""",
                arg=ranked(run, severity),
            )
            with tab.expect_download() as download:
                tab.locator("#figure-ranking [data-save=svg]").click()
            assert download.value.suggested_filename == f"ranking@{severity}.svg"
            unequal = tab.locator("#figure-ranking", has_text="unequally strong")
            assert unequal.locator("[data-severity]").is_visible() == (severity == "paper")


def test_photos_are_found_filtered_and_ordered(browser: Any, report: Path, run: Run) -> None:
    own = run.shift[run.shift["severity"] == "paper"]
    expected = own.groupby("photo")["relative_shift"].mean().sort_values(ascending=False)
    under = own[own["augmentation"] == "flip"].set_index("photo")["relative_shift"].sort_values()

    def listed(tab: Any) -> dict[str, float]:
        cards = tab.locator(".card")
        names = cards.evaluate_all("cards => cards.map(card => card.title)")
        numbers = cards.locator("b").all_inner_texts()
        return dict(zip(names, map(float, numbers), strict=True))

    with opened(browser, report) as tab:
        assert list(listed(tab)) == list(expected.index)
        assert listed(tab) == pytest.approx(dict(expected), abs=6e-4)
        tab.locator("#photo-under").select_option("flip")
        tab.locator("#photo-order").select_option("least")
        assert list(listed(tab)) == list(under.index)
        assert listed(tab) == pytest.approx(dict(under), abs=6e-4)
        tab.locator("#photo-class").select_option(HOSTILE_CLASS)
        assert list(listed(tab)) == [HOSTILE]
        tab.locator("#photo-class").select_option("")
        some = str(under.index[2])
        tab.locator("#photo-find").fill(some[:6].upper())
        assert list(listed(tab)) == [photo for photo in under.index if some[:6] in photo]
        tab.locator("#photo-find").fill("no such photo")
        assert listed(tab) == {}
        assert "0 of 6 photos" in tab.locator("#photo-count").inner_text()


def test_an_enlarged_photo_shows_its_views_gaze_classes_and_numbers(
    browser: Any, report: Path, run: Run
) -> None:
    with opened(browser, report) as tab:
        tab.locator("#photo-find").fill("</script>")
        tab.locator(".card").click()
        dialog = tab.locator("#photo-dialog")
        assert dialog.locator("h3").inner_text() == HOSTILE
        dialog.locator("#photo-variant").select_option(label="flip (paper)")
        assert dialog.locator("figcaption").all_inner_texts() == [
            "clean",
            "flip (paper)",
            "gaze on the view, moved back onto the photo",
        ]
        assert HOSTILE_CLASS in dialog.locator("#photo-nearest").inner_text()
        rows = run.shift.set_index(["photo", "augmentation", "severity"])
        for cell in dialog.locator("#photo-numbers tr", has_text="cosine").all():
            shown = float(cell.locator("td").inner_text())
            assert shown == pytest.approx(
                rows.loc[(HOSTILE, "flip", "paper"), "cosine_similarity"], abs=6e-4
            )
        dialog.locator("#gaze-opacity").fill("20")
        opacities = dialog.locator("canvas").evaluate_all("all => all.map(c => c.style.opacity)")
        assert opacities == ["0.2"] * 3
        # the flipped view's gaze, moved back, is its mirror image
        pixels = [
            np.array(list(canvas.evaluate(
                "c => Array.from(c.getContext('2d').getImageData(0, 0, 224, 224).data)"
            ))).reshape(224, 224, 4)
            for canvas in dialog.locator("canvas").all()
        ]  # fmt: skip
        assert np.abs(pixels[2] - pixels[1][:, ::-1]).max() <= 8
        # as `gaze_over` paints it: the greatest is opaque, and has the last colour
        most = max(pixels, key=lambda one: one[..., 3].max())
        at = np.unravel_index(most[..., 3].argmax(), most.shape[:2])
        assert most[at].tolist() == pytest.approx([*bytes.fromhex(HEAT[-1][1:]), 255], abs=12)
        dialog.locator("#photo-close").click()
        assert not dialog.is_visible()


def test_a_chart_can_be_enlarged(browser: Any, report: Path) -> None:
    with opened(browser, report) as tab:
        tab.locator("#figure-distribution [data-enlarge]").click()
        tab.wait_for_selector("#enlarged svg")
        tab.keyboard.press("Escape")
        assert not tab.locator("#enlarged").is_visible()


def test_photos_that_are_gone_leave_their_numbers(browser: Any, run: Run, tmp_path: Path) -> None:
    gone = ViewDataset([], augmentations_named(*NAMES), 0, "squash")
    file = write_page(tmp_path / "report.html", report_page(run, gone))
    with opened(browser, file) as tab:
        assert tab.locator(".card").count() == 6
        tab.locator(".card").first.click()
        assert "no picture" in tab.locator("#gaze-note").inner_text()
        assert tab.locator("#photo-numbers td").count() > 3


def test_two_models_are_compared_photo_by_photo(browser: Any, comparison: Path, run: Run) -> None:
    with opened(browser, comparison) as tab:
        assert "small and other are not" in tab.locator(".answer").first.inner_text()
        numbers = [float(text) for text in tab.locator(".card b").all_inner_texts()]
        assert numbers == sorted(numbers, reverse=True)
        tab.locator("#photo-of").select_option("small")
        means = run.shift[run.shift["severity"] == "paper"].groupby("photo")["relative_shift"]
        shown = [float(text) for text in tab.locator(".card b").all_inner_texts()]
        np.testing.assert_allclose(shown, sorted(means.mean(), reverse=True), atol=6e-4)
        tab.locator(".card").first.click()
        heads = tab.locator("#photo-numbers thead th").all_inner_texts()
        assert heads == ["measure", "small", "other"]
        assert tab.locator("#photo-views canvas").count() == 4


# --- what a page holds ---------------------------------------------------------------------------


def test_a_ladder_adds_no_figure_but_its_curves(tmp_path: Path) -> None:
    pages = [
        report_page(made_run(tmp_path / str(len(steps)), steps), page_photos())
        for steps in (("1",), ("1", "2", "3", "4", "5"))
    ]
    one, ladder = (set(page.charts) for page in pages)
    assert ladder - one == {"severity"}
    assert one < ladder


def test_a_page_holds_few_pictures_however_many_views(
    browser: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "PICTURES", 28)  # of six views and the clean one
    page = report_page(run, page_photos())
    found = page.sections[-1].explorer
    assert sum(len(shown["pictures"]) for shown in found["shown"].values()) == 28
    assert len(found["photos"]) == 6
    without = next(photo["id"] for photo in found["photos"] if photo["id"] not in found["shown"])
    with opened(browser, write_page(tmp_path / "report.html", page)) as tab:
        count = tab.locator("#photo-count")
        assert count.inner_text().startswith("6 of 6 photos, 2 without a picture. Numbers:")
        tab.locator("#photo-find").fill(without)
        assert count.inner_text().startswith("1 of 6 photos, 1 without a picture. Numbers:")
        tab.locator(".card").click()
        assert "no picture" in tab.locator("#gaze-note").inner_text()
        own = run.shift[run.shift["photo"].eq(without) & run.shift["severity"].eq("paper")]
        cells = (
            tab.locator(f"#photo-numbers tbody {cell}").all_inner_texts() for cell in ("th", "td")
        )
        shown = {name: float(number) for name, number in zip(*cells, strict=True)}
        expected = dict(own.set_index("augmentation")["relative_shift"])
        assert shown == pytest.approx(expected, abs=6e-4)
    monkeypatch.setattr(explorer, "LISTED", 4)
    rows, unlisted = explorer.photo_rows(
        [run.shift], [(name, "paper") for name in NAMES], "relative_shift"
    )
    assert (len(rows), unlisted) == (4, 2)


def test_the_same_run_gives_the_same_page(run: Run, report: Path, tmp_path: Path) -> None:
    again = write_page(tmp_path / "again.html", folded_page(run))
    assert again.read_bytes() == report.read_bytes()


# --- sweeps --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of three models and a failed job, with its page and that of its first job."""
    folder = tmp_path_factory.mktemp("sweep")
    overrides = {str(job): {"model": model} for job, model in enumerate(["a", "b", "c", "d"])}
    sweep = Sweep(folder, overrides, failed={"3": f"no weights {HOSTILE}"})
    for job in ("0", "1", "2"):
        run = made_run(folder / job, ("paper",), overrides[job]["model"])
        kept = run.summary[run.summary["measure"] == "relative_shift"]
        ends = {"ci_low": 1 - kept["ci_high"], "ci_high": 1 - kept["ci_low"]}
        kept = kept.assign(measure="retained", mean=1 - kept["mean"], **ends)
        run.summary = pd.concat([run.summary, kept], ignore_index=True)
        run.columns["retained"] = all_columns()["retained"]
        run.rows = run.rows.assign(retained=1 - run.rows["relative_shift"])
        sweep.runs[job] = run
    write_page(folder / "comparison.html", sweep_page(sweep, folder, make_leaderboard(sweep)))
    gone = ViewDataset([], augmentations_named(*NAMES), 0, "squash")
    link_comparison(write_page(folder / "0/report.html", report_page(sweep.runs["0"], gone)))
    return sweep


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_sweeps_page_has_a_heat_map_of_each_measure(
    browser: Any, sweep: Sweep, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe is not installed")
    with opened(browser, sweep.folder / "comparison.html", width, scheme) as tab:
        for measure in ("relative shift", "retained"):
            tab.locator(".switch select").select_option(label=measure)
            rows = sweep.grid[sweep.grid["measure"] == measure.replace(" ", "_")]
            shown = tab.locator(".lead:visible")
            shown.locator("svg").wait_for()
            cells = shown.locator(".mark-text.role-mark text").all_text_contents()
            assert sorted(cells) == sorted(f"{mean:.2f}" for mean in rows["mean"])
        found = axe.Axe().run(tab)["violations"]
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], v["nodes"][0]["html"]) for v in bad] == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.locator("#jobs .filter input").fill("BLUR c")
        assert tab.locator("#jobs tbody tr:visible th").all_inner_texts() == ["2"]
        tab.locator("#jobs .filter input").fill("other")
        assert tab.locator("#jobs .filter output").inner_text() == "0 shown"
        head = tab.locator("#leaderboard thead button").nth(2)
        head.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("#leaderboard th").nth(2).get_attribute("aria-sort") == "descending"
        assert sorted(tab.locator("#leaderboard tbody th").all_inner_texts()) == ["a", "b", "c"]
        names = tab.locator("#figure-intervals svg text").all_text_contents()
        assert [names.count(model) for model in "abc"] == [3, 3, 3]
        assert HOSTILE in tab.locator("#failed").inner_text()


def test_a_sweep_and_its_jobs_lead_to_each_other_where_they_lie_together(
    browser: Any, sweep: Sweep, tmp_path: Path
) -> None:
    tab = browser.new_page()
    tab.goto((sweep.folder / "comparison.html").as_uri())
    assert tab.locator("#jobs th a").all_inner_texts() == [job for job in "012" for _ in NAMES]
    tab.locator("#jobs th a").first.click()
    assert "Embedding shift of a" in tab.locator("h1").inner_text()
    tab.locator(".kicker a").click()
    assert "Sweep of 4 jobs" in tab.locator("h1").inner_text()
    for page in ("comparison.html", "0/report.html"):  # as mailed: one file, elsewhere
        tab.goto(copy(sweep.folder / page, tmp_path / "alone.html").as_uri())
        assert tab.locator("a[href]:not([href^='#'])").count() == 0
    tab.close()


def test_the_table_of_a_comparison_is_not_cut(browser: Any, comparison: Path) -> None:
    with opened(browser, comparison, 1440) as tab:
        box = tab.locator("#differences .scroll:has(table)")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
        assert box.locator("th", has_text="p (Holm)").is_visible()
