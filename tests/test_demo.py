"""The demo: its numbers are those of `measure_shift`, and a browser asks for them."""

import copy
import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.augmentations import PAPER, augmentations_named, ladders
from support.models import write_hub_folder

import clipshift
from clipshift.augment.variants import make_variants
from clipshift.cli import demo as command
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.data.sources import sample
from clipshift.demo.photo import Model, make_model, measure_photo, nearest
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.errors import UserError
from clipshift.results.kept import read_kept, read_nearest

VIT = {"image_size": 64, "patch_size": 32, "layers": 1, "width": 32, "head_width": 32}
CLASSES = ["cat", "rocket", "cup of coffee", "horse"]
TEMPLATES = ["a photo of a {}."]
LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def photo_named(name: str) -> Path:
    return next(Path(photo.file) for photo in sample() if name in photo.id)


@pytest.fixture(scope="module")
def photo() -> Path:
    return photo_named("coffee")


@pytest.fixture(scope="module")
def models(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    other = load_encoder(f"local-dir:{write_hub_folder(tmp_path_factory.mktemp('other'), VIT, 1)}")
    return [
        make_model("small", encoder, CLASSES, TEMPLATES),
        make_model("other", other, CLASSES, TEMPLATES, ["blur"]),
    ]


def make(page: Any, models: list[Model], *names: str) -> Any:
    """The demo of two models, side by side, under these augmentations."""
    loaders = {model.name: lambda model=model: model for model in models}
    return page.make_demo(loaders, augmentations_named(*names), ladders(), two=True)


# --- the numbers ---------------------------------------------------------------------------------


def test_numbers_gaze_and_classes_are_those_of_measure_shift(
    models: list[Model], hub_folder: Path, photo: Path
) -> None:
    names = ["noise", "perspective", "coarse_dropout"]
    result = clipshift.measure_shift(
        [photo], hub_folder, names, ["paper", 4], classes=CLASSES, prompts=TEMPLATES,
        measures="cosine_similarity", seed=3, progress=False,
    )  # fmt: skip
    rows = result.shift.set_index(["augmentation", "severity"])["cosine_similarity"]
    gazes, classes = (read(result.run.folder)[photo.name] for read in (read_kept, read_nearest))
    for severity in ("paper", "4"):
        variants = make_variants(augmentations_named(*names), ladders(), [severity], {})
        measured = measure_photo(photo, models[0], variants, seed=3)
        for name in names:
            view = f"{name}@{severity}"
            assert measured.values[name, "cosine_similarity"] == rows[name, severity]
            np.testing.assert_array_equal(measured.gazes[name][0], gazes[view])
            found = nearest(measured, models[0], name)
            assert [name for name, _ in found] == [name for name, _ in classes[view]]


def test_views_that_make_a_pass_of_their_own_are_encoded_alike(encoder: Encoder) -> None:
    views = torch.rand(10, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    few = copy.copy(encoder)
    few.fill = False
    with torch.inference_mode():
        torch.testing.assert_close(few(views).embedding, encoder(views).embedding)


def test_the_relative_shift_is_against_the_built_in_photographs(
    models: list[Model], hub_folder: Path, photo: Path
) -> None:
    every = clipshift.measure_shift(
        None, hub_folder, "flip", measures="cosine_similarity", progress=False
    )
    assert models[0].spread == every.run.info.spread
    own = every.shift[every.shift["photo"].str.endswith(photo.name)]
    variants = make_variants(augmentations_named("flip"), ladders(), ["paper"], {})
    measured = measure_photo(photo, models[0], variants, seed=0)
    np.testing.assert_array_equal(measured.values["flip", "relative_shift"], own["relative_shift"])


def test_a_model_is_loaded_when_it_is_chosen() -> None:
    models = command.demo_models(compose_config("demo", ["beside=tiny"]))
    assert list(models)[:2] == ["lite", "tiny"]
    assert "untrained" not in models
    again = command.demo_models(compose_config("demo", ["model=tiny", "beside=tiny"]))
    assert list(again) == ["tiny", "tiny (beside)", "lite"]


def test_what_has_no_ladder_is_shown_at_the_papers_strengths_alone(models: list[Model]) -> None:
    page = pytest.importorskip("clipshift.demo.page", reason="Gradio is not installed")
    for known, named in ((ladders(), ("flip", "blur")), ({"blur": [1.0] * 5}, ("blur",))):
        every = augmentations_named("flip", "blur")
        variants = make_variants({name: every[name] for name in named}, known, ["2"], {})
        measured = measure_photo(photo_named("coffee"), models[0], variants, seed=0)
        answer = page.Answer("coffee.png", "2", variants, [(models[0], measured)])
        assert set(answer.numbers()) == set(named)
        assert f"shifts {models[0].name}" in answer.page("flip")
        assert ("<b>flip</b>" in answer.page("flip")) == ("flip" in named)


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["beside=lte"], "did you mean 'lite'"), (["port=99999"], "port=99999 is out of range")],
)
def test_mistakes_are_one_line(options: list[str], expected: str) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    cfg = compose_config("demo", options)

    def checked_demo() -> None:
        validate(cfg, "demo")
        command.demo(cfg)

    with pytest.raises(UserError, match=expected):
        checked_demo()


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'clipshift\[demo\]'"):
        command.demo(compose_config("demo"))


def test_a_port_in_use_is_said(models: list[Model]) -> None:
    page = pytest.importorskip("clipshift.demo.page", reason="Gradio is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            page.launch(make(page, models, "flip"), port)


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(models: list[Model], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page's address, and the addresses other than this machine's that its server called."""
    page = pytest.importorskip("clipshift.demo.page", reason="Gradio is not installed")
    called: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            called.append(address)
        return connect(self, address)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("dragged")))
        patch.setattr(socket.socket, "connect", watched)
        demo = make(page, models, *PAPER)
        yield SimpleNamespace(address=page.launch(demo, port), called=called)
        demo.close(verbose=False)


@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        ("127.0.0.1:{port}", None, True),
        ("localhost:{port}", "http://localhost:{port}", True),
        ("localhost:9000", "http://localhost:9000", True),  # ssh -L 9000:localhost:7860
        ("evil.example", None, False),
        ("evil.example:{port}", "http://evil.example:{port}", False),  # DNS rebinding
        ("127.0.0.1.evil.example", None, False),
        ("localhost@evil.example", None, False),
        ("[::ffff", None, False),
        ("", None, False),
        ("127.0.0.1:{port}", "http://evil.example", False),
        ("127.0.0.1:{port}", "http://localhost:8888", False),
        ("127.0.0.1:{port}", "null", False),
    ],
)
def test_only_its_own_page_is_answered(
    served: Any, host: str, origin: str | None, answered: bool
) -> None:
    port = served.address.rstrip("/").rpartition(":")[2]
    headers = {"Host": host.format(port=port)}
    if origin:
        headers["Origin"] = origin.format(port=port)
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/upload"):
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        connection.request("POST" if "upload" in path else "GET", path, headers=headers)
        assert (connection.getresponse().status == 403) != answered, path
        connection.close()


@pytest.mark.parametrize(("size", "status"), [(49, 200), (51, 413)])
def test_a_photograph_is_no_larger_than_50_mb(served: Any, size: int, status: int) -> None:
    import httpx  # which Gradio brings

    files = {"files": ("large.png", b"\0" * (size << 20))}
    answer = httpx.post(f"{served.address}gradio_api/upload", files=files, timeout=60)
    assert answer.status_code == status


@contextmanager
def opened(served: Any, browser: Any, width: int, scheme: str = "light") -> Iterator[Any]:
    """The page; afterwards it must have asked nothing of another machine, and erred nowhere."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    ours = (served.address, "data:", "blob:")
    tab.on("request", lambda r: None if r.url.startswith(ours) else faults.append(r.url))
    tab.goto(served.address)
    tab.locator("#answer .lead").first.wait_for()
    yield tab
    assert faults == []
    assert served.called == []
    tab.close()


def check_access(tab: Any, width: int) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(tab, options={"resultTypes": ["violations"]})["violations"]
    bad = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"]) for v in bad] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    scrolling = "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).length"
    assert tab.locator("#answer .scroll").evaluate_all(scrolling) == 0


def check_numbers(tab: Any, photo: Path, models: list[Model], severity: str) -> None:
    """Every table's row has what is measured here: relative shift and cosine of each model."""
    variants = make_variants(augmentations_named(*PAPER), ladders(), [severity], {})
    every = [measure_photo(photo, model, variants, seed=0).values for model in models]
    measures = ("relative_shift", "cosine_similarity")
    expected = {n: [float(of[n, m][0]) for of in every for m in measures] for n in PAPER}
    order = sorted(expected, key=lambda name: -expected[name][0])
    rows = tab.locator("#answer .shifts tbody tr").all()
    told = {row.locator("th").text_content().replace("\u200b", ""): row for row in rows}
    assert list(told) == order
    for name, row in told.items():
        cells = row.locator("td").all_inner_texts()[-2 * len(models) :]
        rounded = [float(cell.split()[0]) for cell in cells]
        np.testing.assert_allclose(rounded, expected[name], atol=6e-4)
    views = tab.locator("#answer .views button")
    assert views.evaluate_all("all => all.map(view => view.dataset.name)") == order


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_opens_with_an_answer(
    served: Any, browser: Any, models: list[Model], width: int, scheme: str
) -> None:
    with opened(served, browser, width, scheme) as tab:
        check_access(tab, width)
        if scheme == "light":
            check_numbers(tab, photo_named("chelsea"), models, "paper")
        assert tab.locator("#answer .pictures img").count() == 2 + 2 * 2
        trained = tab.locator("#answer tr", has_text="(trained on)")
        assert trained.locator("th").all_inner_texts() == ["blur"]
        last = tab.locator("#answer table").last.bounding_box()
        assert last["x"] + last["width"] <= width


def test_a_photograph_of_ones_own_is_dragged_in(
    served: Any, browser: Any, photo: Path, models: list[Model]
) -> None:
    with opened(served, browser, 1440) as tab:
        tab.locator("input[type=file]").set_input_files(photo)
        tab.get_by_text("coffee.png, at the paper").wait_for()
        tab.locator("input[type=range]").fill("5")
        tab.get_by_text("coffee.png, at severity 5").wait_for()
        assert not tab.get_by_label("At the paper").is_checked()
        check_numbers(tab, photo, models, "5")
        check_access(tab, 1440)
        with tab.expect_download() as saved:
            tab.get_by_text("Save the numbers").click()
        table = pd.read_csv(saved.value.path())
        assert saved.value.suggested_filename == "coffee-5.csv"
        variants = make_variants(augmentations_named(*PAPER), ladders(), ["5"], {})
        measured = measure_photo(photo, models[1], variants, seed=0)
        rows = table[table["model"] == "other"].set_index("augmentation")
        assert rows["trained_on"].sum() == rows.loc["blur", "trained_on"] == 1
        for name in PAPER:
            assert rows.loc[name, "strength"] == ladders()[name][4]
            for measure in ("relative_shift", "cosine_similarity"):
                assert rows.loc[name, measure] == measured.values[name, measure][0]
        with tab.expect_download() as saved:
            tab.get_by_text("Save all pictures").click()
        assert saved.value.suggested_filename == "coffee-5.png"
        with Image.open(saved.value.path()) as sheet:  # rows: views, and the gaze of two models
            assert sheet.width > 160 * (1 + len(PAPER))
            assert sheet.height > 160 * 3


def test_it_works_by_keyboard(served: Any, browser: Any) -> None:
    with opened(served, browser, 390) as tab:
        view = tab.locator("#answer .views button[data-name=perspective]")
        view.focus()
        tab.keyboard.press("Enter")
        tab.locator("#answer .lead", has_text="perspective shifts other").wait_for()
        assert tab.get_by_label("Augmentation", exact=True).input_value() == "perspective"
        focused = tab.locator("#answer button:focus")
        focused.wait_for()  # where the reader was, though all of the answer is new
        assert focused.get_attribute("data-name") == "perspective"
        assert focused.get_attribute("aria-pressed") == "true"
        tab.locator("input[type=range]").focus()
        tab.keyboard.press("ArrowRight")
        tab.locator("#answer h2", has_text="at severity 4").wait_for()
        beside = tab.get_by_label("Beside it", exact=True)
        beside.focus()
        tab.get_by_role("option", name="none").wait_for()
        tab.keyboard.press("Home")
        beside.press("ArrowUp")
        beside.press("ArrowUp")
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.querySelectorAll('#answer .lead').length == 1")
        tab.keyboard.press("Tab")
        assert tab.get_by_role("option").count() == len(PAPER)  # no list stays open behind


def test_what_is_no_photograph_is_said(served: Any, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photograph")
    with opened(served, browser, 1440) as tab:
        tab.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
        tab.get_by_text("broken.png cannot be read").wait_for()
