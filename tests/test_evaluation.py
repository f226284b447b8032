"""The evaluation: the same numbers whatever the batch size, workers, order, ranks or company."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from scipy import stats
from scipy.spatial.distance import jensenshannon, pdist
from support.augmentations import PAPER, augmentation_named, augmentations_named, ladders
from support.columns import all_columns
from support.commands import FEW, run_evaluate
from support.evaluation import measure, run_module
from support.runs import run_facts

from clipshift.augment.keyed import augment, draw
from clipshift.augment.variants import make_variants
from clipshift.cli.command import compose_config
from clipshift.cli.evaluate import evaluate
from clipshift.data.dataset import ViewDataset, clean_view, collate
from clipshift.data.photos import Photo, decode
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder
from clipshift.errors import UserError
from clipshift.evaluate.gallery import (
    add_of_gallery,
    add_relative_shift,
    clean_spread,
    gallery_values,
)
from clipshift.evaluate.layers import layer_table
from clipshift.evaluate.module import ShiftEvaluation
from clipshift.evaluate.tables import make_run
from clipshift.measure.functional import attention_similarity_aligned, gaze_divergence_aligned
from clipshift.results.intervals import mean_interval
from clipshift.results.measured import Measured
from clipshift.results.records import Records
from clipshift.results.runs import write_run
from clipshift.results.table import PhotoSample, by_photo, distance_tables


@pytest.fixture(scope="module")
def reference(encoder: Encoder) -> tuple[pd.DataFrame, ShiftEvaluation, dict]:
    return measure(encoder, sample()[:4], list(PAPER))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 2)])
def test_batch_size_and_workers_do_not_matter(
    encoder: Encoder, reference: tuple, batch_size: int, num_workers: int
) -> None:
    table, *_ = measure(encoder, sample()[:4], list(PAPER), batch_size, num_workers)
    pd.testing.assert_frame_equal(table, reference[0], check_exact=True)


def test_full_passes_are_encoded_without_a_copy_of_all_views(
    encoder: Encoder, reference: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipshift.evaluate.module.ENCODE_BATCH", 2)
    table, *_ = measure(encoder, sample()[:4], list(PAPER), batch_size=4)
    pd.testing.assert_frame_equal(table, reference[0], check_exact=True)


def test_order_of_photos_does_not_matter(encoder: Encoder, reference: tuple) -> None:
    photos = sample()[:4]
    random.Random(3).shuffle(photos)
    table, *_ = measure(encoder, photos, list(PAPER), batch_size=4)
    pd.testing.assert_frame_equal(table, reference[0], check_exact=True)


@pytest.mark.parametrize("names", [["noise"], ["blur", "noise"]])
def test_other_augmentations_do_not_matter(
    encoder: Encoder, reference: tuple, names: list[str]
) -> None:
    table, *_ = measure(encoder, sample()[:4], names)
    for name in names:
        alone, within = (
            t[t["augmentation"] == name].reset_index(drop=True) for t in (table, reference[0])
        )
        pd.testing.assert_frame_equal(alone, within, check_exact=True)


def test_other_severities_do_not_matter(encoder: Encoder, reference: tuple) -> None:
    """The paper's views are the same whatever else is made of the photos."""
    table, *_ = measure(
        encoder, sample()[:4], ["blur", "noise"], batch_size=3, severities=["2", "paper"]
    )
    within = reference[0]
    for name in ("blur", "noise"):
        rows = table[(table["augmentation"] == name) & (table["severity"] == "paper")]
        expected = within[within["augmentation"] == name]
        pd.testing.assert_frame_equal(
            rows.reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
        )


def test_another_seed_changes_what_is_random(encoder: Encoder, reference: tuple) -> None:
    table, *_ = measure(encoder, sample()[:4], list(PAPER), seed=1)
    for name in PAPER:
        rows = table["augmentation"] == name
        same = table.loc[rows, "l2_distance"].eq(reference[0].loc[rows, "l2_distance"])
        assert same.all() if name == "flip" else not same.any()


def test_metrics_and_distances_agree_with_the_table(reference: tuple) -> None:
    table, module, measured = reference
    for name, metric in module.measures.items():  # over all augmentations: one metric each
        assert metric.compute().item() == pytest.approx(table[name].mean(), rel=1e-6)
    distances, low, high = distance_tables(
        PhotoSample(measured, sample()[:4], dict.fromkeys(PAPER), 0)
    )
    assert list(distances.index) == list(distances.columns) == list(PAPER)
    np.testing.assert_allclose(distances, module.distance.compute(), rtol=1e-6)
    apart = ~np.eye(9, dtype=bool)
    assert (low.to_numpy() < distances.to_numpy())[apart].all()
    assert (distances.to_numpy() < high.to_numpy())[apart].all()


def test_brightness_and_contrast_are_of_luma(reference: tuple, views: torch.Tensor) -> None:
    table = reference[0].set_index("photo")
    for photo, view in zip(sample()[:4], views.double().numpy(), strict=False):
        luma = 0.299 * view[0] + 0.587 * view[1] + 0.114 * view[2]
        np.testing.assert_allclose(table.loc[photo.id, "brightness"], luma.mean(), atol=1e-6)
        np.testing.assert_allclose(table.loc[photo.id, "contrast"], luma.std(), atol=1e-6)


@pytest.mark.parametrize("severity", ["2", "paper"])
def test_gazes_are_moved_back_by_the_views_own_draws(encoder: Encoder, severity: str) -> None:
    photos, names = sample()[:4], ["noise", "flip", "perspective"]
    table, module, _ = measure(encoder, photos, names, batch_size=3, severities=[severity])
    table = table.set_index(["augmentation", "photo"])
    for name in names:
        augmentation, strength = augmentation_named(name), module.variants[name].strength
        for photo in photos:
            draws = {k: v[None] for k, v in draw(augmentation, 0, photo.id, name, 224).items()}
            clean = clean_view(decode(photo.read()), "squash")[None]
            with torch.inference_mode():
                view = encoder(augment(augmentation, clean, draws, strength)).gaze
                gazes = view, encoder(clean).gaze

            def move_back(maps: torch.Tensor) -> torch.Tensor:
                return augmentation.move_back(maps, draws, strength)  # noqa: B023

            back = None if name == "noise" else move_back
            row = table.loc[(name, photo.id)]
            for measured, function in (
                ("gaze_divergence_aligned", gaze_divergence_aligned),
                ("attention_similarity_aligned", attention_similarity_aligned),
            ):
                assert row[measured] == pytest.approx(function(*gazes, back).item(), abs=1e-6)
    turned = table.loc["flip"]
    apart = turned["attention_similarity_aligned"] - turned["attention_similarity"]
    assert (apart != 0).any()


def test_an_augmentation_that_cannot_move_gazes_back_is_named(encoder: Encoder) -> None:
    class Mirror:
        strongest, moves_pixels = 1.0, True
        sample, apply = augmentation_named("flip").sample, augmentation_named("flip").apply

    with pytest.raises(UserError, match=r"aug\.mirror moves pixels but has no move_back.*metric="):
        measure(encoder, sample()[:1], {"mirror": Mirror()})


def test_text_shift_is_the_mean_change_over_a_photos_captions(encoder: Encoder) -> None:
    texts = [("a cat", "a red rocket in space", "the number seven"), (), ("coffee",)]
    photos = [replace(p, captions=t) for p, t in zip(sample()[:3], texts, strict=True)]
    table, *_ = measure(encoder, photos, ["noise"], captions=True, batch_size=2)
    got = table.set_index("photo")["text_shift"]
    for photo in photos:
        batch = collate([ViewDataset([photo], augmentations_named("noise"), 0, "squash")[0]])
        view = augment(augmentation_named("noise"), batch.clean, batch.draws["noise"])
        after, before = (
            encoder.model.encode_image((x - encoder.mean) / encoder.std, normalize=True)[0]
            for x in torch.nn.functional.interpolate(
                torch.cat([view, batch.clean]), (64, 64), mode="bilinear", antialias=True
            ).split(1)
        )
        changes = []
        for text in photo.captions:
            tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)([text])
            unit = encoder.model.encode_text(tokens, normalize=True)[0]
            changes.append(float((after - before) @ unit))
        if changes:
            assert got[photo.id] == pytest.approx(np.mean(changes), abs=1e-5)
            assert abs(np.mean(changes)) > 1e-4
            assert len(changes) == 1 or abs(changes[0] - np.mean(changes)) > 1e-4
        else:
            assert np.isnan(got[photo.id])


def test_the_gallery_is_the_photos_chosen_for_it_and_no_more(encoder: Encoder) -> None:
    photos, chosen = sample()[:4], {1, 3}
    table, _, measured = measure(encoder, photos, ["noise", "flip"], batch_size=3, gallery=chosen)
    kept = measured.gallery
    assert set(kept) == {"clean", "noise", "flip"}
    assert all(set(of_view) == chosen for of_view in kept.values())
    known = table[table["retained"].notna()]
    assert set(known["photo"]) == {photos[index].id for index in chosen}
    assert len(known) == 4


def centred_twice(gram: np.ndarray) -> np.ndarray:
    centre = np.eye(len(gram)) - 1 / len(gram)
    return centre @ gram @ centre


def u_centred(gram: np.ndarray) -> np.ndarray:
    """Székely and Rizzo (2014), eq. 2.2: products of such matrices estimate without bias."""
    n, off = len(gram), gram - np.diag(np.diag(gram))
    rows = off.sum(axis=1) / (n - 2)
    centred = off - rows - rows[:, None] + off.sum() / ((n - 1) * (n - 2))
    return centred - np.diag(np.diag(centred))


@pytest.mark.parametrize("names", [("noise", "flip"), ("noise",)])
def test_layers_are_those_of_whole_gram_matrices(encoder: Encoder, names: tuple[str]) -> None:
    """On real photographs: running sums in batches against features of all photos at once."""
    photos = sample()
    chosen = augmentations_named(*names)
    variants = make_variants(chosen, ladders(), ["2"], {})
    dataset = ViewDataset(photos, chosen, 0, "squash")
    records, _ = run_module(encoder, variants, {}, dataset, batch_size=5, layers=True)
    table = layer_table(PhotoSample(records.read(), photos, variants, 0), records.sums())
    table = table.set_index(["augmentation", "layer"])
    batch = collate([dataset[index] for index in range(len(photos))])
    with torch.inference_mode():
        clean = encoder(batch.clean, layers=True).layers
        for name, variant in variants.items():
            view = augment(chosen[name], batch.clean, batch.draws[name], variant.strength)
            moved = encoder(view, layers=True).layers
            for layer, (x, y) in enumerate(zip(clean, moved, strict=True), start=1):
                grams = [m[:, 1].double().numpy() @ m[:, 1].double().numpy().T for m in (x, y)]
                row = table.loc[(name, layer)]
                for column, centred in (("cka", u_centred), ("cka_biased", centred_twice)):
                    k, g = (centred(gram) for gram in grams)
                    expected = (k * g).sum() / np.sqrt((k * k).sum() * (g * g).sum())
                    assert row[column] == pytest.approx(expected, abs=1e-6)
                for token, columns in enumerate(
                    (("cosine", "ci_low", "ci_high"), ("patch_cosine", "patch_low", "patch_high"))
                ):
                    pairs = x[:, token].double(), y[:, token].double()
                    cosines = torch.cosine_similarity(*pairs).numpy()
                    expected = (cosines.mean(), *mean_interval(cosines, seed=0))
                    assert tuple(row[list(columns)]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [1, 7, 501])
def test_ranks_and_batches_leave_the_same_files(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process with batches of 32, and two with every second photo each, in batches of 5."""
    monkeypatch.setattr("clipshift.results.records.PHOTOS_PER_CHUNK", 200)
    rng = np.random.default_rng(count)
    photos = [Photo(f"{i}.jpg", Path(), label=str(i % 3)) for i in rng.permutation(count)]
    names = ["noise", "blur", "flip"]
    cosines, distances = rng.random((count, 3)), rng.random((count, 3)).astype(np.float32)
    embeddings = rng.normal(size=(4, count, 8)).astype(np.float32)

    def measured(index: np.ndarray) -> Measured:
        kept = [photo for photo in index.tolist() if photo < 6]
        gallery = {
            view: {photo: embeddings[k, photo] for photo in kept}
            for k, view in enumerate(["clean", *names])
        }
        return Measured(
            index=index,
            values={(n, "cosine_similarity"): cosines[index, k] for k, n in enumerate(names)},
            digests=np.repeat(index[:, None], 32, axis=1).astype(np.uint8),
            distances=distances[index],
            embeddings={"clean": embeddings[0, index]},
            gallery=gallery if kept else {},
        )

    def files(ranks: int, batch: int) -> dict[str, bytes]:
        folder = tmp_path / str(ranks)
        records = Records(folder)
        records.begin({}, restart=True)
        for rank in reversed(range(ranks)):
            own = np.arange(rank, count, ranks)
            for start in range(0, len(own), batch):
                records.add(measured(own[start : start + batch]))
        variants = make_variants(augmentations_named(*names), {}, ["paper"], {})
        kept = records.read("digests", "distances", "gallery")
        run = make_run(
            folder,
            PhotoSample(kept, photos, variants, 0),
            records,
            all_columns(),
            run_facts(model={"gaze_layer": None}),
        )
        write_run(run)
        shift = by_photo(run.rows, "cosine_similarity")
        assert shift.index.tolist() == sorted(photo.id for photo in photos)
        assert run.shift["photo"].is_monotonic_increasing
        order = np.argsort([photo.id for photo in photos])
        np.testing.assert_array_equal(shift.to_numpy(), cosines[order])
        if count > 1:
            assert by_photo(run.rows, "retained").notna().sum().tolist() == [6, 6, 6]
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    assert files(1, 32) == files(2, 5)


def test_a_model_that_ignores_its_input_has_no_shift(encoder: Encoder) -> None:
    class Blind(Encoder):
        def _encode(self, views: torch.Tensor, *wanted: bool):  # type: ignore[no-untyped-def]
            return super()._encode(torch.zeros_like(views), *wanted)

    blind = Blind(encoder.model, encoder.preprocessing, {}, False, "fp32", lambda: None)
    table, _, measured = measure(blind, sample()[:3], ["noise", "flip"])
    assert (table["l2_distance"] == 0).all()
    np.testing.assert_allclose(table["cosine_similarity"], 1, atol=1e-6)
    assert (table["attention_similarity"] == 1).all()
    measured.gallery = {
        name: {i: np.ones(4, np.float32) for i in range(3)} for name in ("clean", "noise", "flip")
    }
    add_relative_shift(measured, clean_spread([measured]))
    add_of_gallery(measured, gallery_values(measured, sample()))
    assert np.isnan(measured.values["noise", "relative_shift"]).all()
    np.testing.assert_allclose(measured.values["noise", "retained"], 1 / 3)


# --- the command, end to end ---------------------------------------------------------------------


def test_run_writes_everything(finished: tuple[Path, str]) -> None:
    folder, said = finished
    shift = pd.read_parquet(folder / "shift.parquet")
    summary = pd.read_csv(folder / "summary.csv")
    assert list(shift.columns[:4]) == ["photo", "label", "augmentation", "severity"]
    assert len(shift) == 5 * 9
    assert list(summary.columns) == [
        "augmentation", "severity", "measure", "mean", "std", "ci_low", "ci_high", "n",
    ]  # fmt: skip
    beyond = {"gaze_divergence", "gaze_entropy_change", "relative_shift", "retained", "text_shift",
              "gaze_divergence_aligned", "attention_similarity_aligned"}  # fmt: skip
    assert len(summary) == 9 * (9 + 9 + 3)  # the paper's and the distortion, and of five classes
    assert beyond | {"zero_shot_flip", "zero_shot_top1_clean"} <= set(summary["measure"])
    distances = pd.read_csv(folder / "distances.csv", index_col=0)
    assert list(distances.index) == list(distances.columns) == list(PAPER)
    assert pd.read_csv(folder / "skipped.csv").empty
    facts = json.loads((folder / "run.json").read_text())
    assert facts["complete"]
    assert facts["data"]["photos"] == 5
    assert len(facts["model"]["weights_sha256"]) == len(facts["data"]["fingerprint"]) == 64
    assert facts["config"]["seed"] == 0
    assert {"torch", "open_clip_torch", "clipshift"} <= set(facts["versions"])
    page = (folder / "report.html").read_text()
    figures = {file.name for file in (folder / "figures").iterdir()}
    drawn = ("ranking", "distribution", "heatmap", "layers_cosine", "layers_patch_cosine",
             "layers_cka", "gaze", "distances", "correlations", "cosines")  # fmt: skip
    assert figures == {f"{name}.{kind}" for name in drawn for kind in ("svg", "png")}
    views = 1 + 9  # clean, and under nine augmentations
    assert page.count("data:image/jpeg") == 5 * views
    assert 'src="http' not in page
    assert not list(folder.glob(".*.partial"))
    for word in ("noise", "cosine", "report.html", "wandb sync"):
        assert word in said


def test_saved_tensors_reproduce_the_numbers(finished: tuple[Path, str]) -> None:
    """What anyone can check with their own code: embeddings, views and gazes against the tables."""
    folder, _ = finished
    shift = pd.read_parquet(folder / "shift.parquet").set_index(["augmentation", "photo"])
    with safe_open(folder / "embeddings.safetensors", "np") as file:
        ids = json.loads(file.metadata()["photos"])
    embeddings = load_file(folder / "embeddings.safetensors")
    assert ids == [photo.id for photo in sample()[:5]]
    clean = embeddings.pop("clean").astype(float)
    unit = {
        name: embeddings[name]
        / np.linalg.norm(embeddings[name].astype(float), axis=1, keepdims=True)
        for name in PAPER
    }
    for name, moved in embeddings.items():
        rows = shift.loc[name].loc[ids]
        l2 = np.linalg.norm(moved - clean, axis=1)
        cos = (unit[name] * clean).sum(1) / np.linalg.norm(clean, axis=1)
        np.testing.assert_allclose(rows["l2_distance"], l2, atol=1e-5)
        np.testing.assert_allclose(rows["cosine_similarity"], cos, atol=1e-5)
    expected = [[np.mean(1 - (a * b).sum(1)) for b in unit.values()] for a in unit.values()]
    distances = pd.read_csv(folder / "distances.csv", index_col=0)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    norms = np.linalg.norm(clean, axis=1)
    spread = pdist(clean, "cosine").mean()
    for name, moved in unit.items():
        rows = shift.loc[name].loc[ids]
        cosines = moved @ (clean / norms[:, None]).T
        np.testing.assert_allclose(
            rows["relative_shift"], (1 - cosines.diagonal()) / spread, atol=1e-4
        )
        assert rows["retained"].tolist() == (cosines.argmax(1) == np.arange(len(ids))).tolist()
        nearer = clean @ (clean / norms[:, None]).T / norms[:, None] > cosines.diagonal()[:, None]
        others = nearer.sum(1) - nearer.diagonal()
        np.testing.assert_allclose(rows["percentile_shift"], others / (len(ids) - 1))
    recall = pd.read_csv(folder / "retrieval.csv").set_index(["augmentation", "task", "k"])
    assert set(recall["n"]) == {5}
    assert (recall.loc[("clean", "text-to-image", 1), "among"] == 5).all()
    views = load_file(folder / "views.safetensors")
    gazes = load_file(folder / "gaze.safetensors")
    assert views["clean"].shape == (2, 3, 224, 224)
    assert gazes["noise"].shape == (5, 4, 4)  # the page shows all of them
    assert (gazes["noise"].sum((1, 2)) <= 1).all()
    for name in PAPER:
        rows = shift.loc[name].loc[ids]
        pairs = [(a.ravel(), b.ravel()) for a, b in zip(gazes[name], gazes["clean"], strict=True)]
        divergence = [jensenshannon(a, b, base=2) ** 2 for a, b in pairs]
        np.testing.assert_allclose(rows["gaze_divergence"], divergence, atol=1e-6)
        turned = gazes[name][..., ::-1] if name == "flip" else gazes[name]
        if name in ("flip", "noise"):
            pairs_back = zip(turned, gazes["clean"], strict=True)
            back = [jensenshannon(a.ravel(), b.ravel(), base=2) ** 2 for a, b in pairs_back]
            np.testing.assert_allclose(rows["gaze_divergence_aligned"], back, atol=1e-6)
        change = [stats.entropy(a, base=2) - stats.entropy(b, base=2) for a, b in pairs]
        np.testing.assert_allclose(rows["gaze_entropy_change"], change, atol=1e-5)
        error = np.sqrt(((views[name] - views["clean"]).astype(float) ** 2).mean((1, 2, 3)))
        np.testing.assert_allclose(shift.loc[name].loc[ids[:2]]["rmse"], error, atol=1e-5)


@pytest.mark.usefixtures("without_page")
def test_two_processes_measure_what_one_does(
    finished: tuple[Path, str], hub_folder: Path, tmp_path: Path
) -> None:
    done = run_evaluate(
        f"model.checkpoint={hub_folder}", f"hydra.run.dir={tmp_path}", "logger=none",
        "data.limit=5", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "aug=[paper,upload]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = [f"model.checkpoint={hub_folder}", "logger=none", "data.limit=5", "aug=upload",
               "trainer=cpu"]  # fmt: skip
    evaluate(compose_config("evaluate", options), tmp_path / "upload")
    for file in ("shift.parquet", "summary.csv"):
        read = pd.read_parquet if file.endswith("parquet") else pd.read_csv
        parts = [read(folder / file) for folder in (finished[0], tmp_path / "upload")]
        keys = [key for key in ("photo", "augmentation", "measure") if key in parts[0]]
        one, two = (
            table.sort_values(keys, ignore_index=True)
            for table in (pd.concat(parts), read(tmp_path / file))
        )
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    distances = pd.read_csv(tmp_path / "distances.csv", index_col=0).loc[[*PAPER], [*PAPER]]
    pd.testing.assert_frame_equal(
        pd.read_csv(finished[0] / "distances.csv", index_col=0), distances
    )


@pytest.mark.usefixtures("without_page")
def test_a_matched_run_stores_its_calibration_for_use_again(
    hub_folder: Path, tmp_path: Path
) -> None:
    common = (
        f"model.checkpoint={hub_folder}", "logger=none", "trainer=cpu", "aug=[noise,flip]",
        "data.limit=8", "layers=true", *FEW,
    )  # fmt: skip
    done = run_evaluate(*common, "severity=[paper,matched]", f"hydra.run.dir={tmp_path}/a")
    assert done.returncode == 0, done.stderr
    assert "severity matched" in done.stdout
    calibration = json.loads((tmp_path / "a/calibration.json").read_text())
    shift = pd.read_parquet(tmp_path / "a/shift.parquet")
    assert len(calibration["photos"]) == shift["photo"].nunique() == 4
    assert not {photo["id"] for photo in calibration["photos"]} & set(shift["photo"])
    assert calibration["matches"]["noise"]["realised"] == pytest.approx(0.7, rel=0.02)
    facts = json.loads((tmp_path / "a/run.json").read_text())
    strength = calibration["matches"]["noise"]["strength"]
    assert facts["strengths"]["noise@matched"] == strength
    assert facts["strengths"]["noise@paper"] == 1
    assert -1 <= facts["paper_and_matched"]["tau"] <= 1
    assert (tmp_path / "a/figures/agreement.png").exists()
    assert (tmp_path / "a/figures/ranking@matched.svg").exists()
    layers = pd.read_csv(tmp_path / "a/layers.csv")
    assert len(layers) == 2 * 2 * 2  # augmentations, severities, layers
    assert layers["cka"].between(-1 - 1e-9, 1 + 1e-9).all()  # debiased: below 0 by chance
    assert layers["cka_biased"].between(0, 1 + 1e-9).all()

    stored = (*common, "severity=matched", f"matching.file={tmp_path}/a/calibration.json")
    evaluate(compose_config("evaluate", stored), tmp_path / "b")
    again = pd.read_parquet(tmp_path / "b/shift.parquet")
    before = shift[shift["severity"] == "matched"].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, again, check_exact=True)

    other = compose_config("evaluate", [*stored, "aug.noise.std=[0.1,0.2]"])
    with pytest.raises(
        UserError, match=r"calibration\.json was made with other parameters of noise"
    ):
        evaluate(other, tmp_path / "c")


def test_nothing_of_an_earlier_run_in_the_folder_is_left(hub_folder: Path, tmp_path: Path) -> None:
    optional = {"layers.csv", "calibration.json", "embeddings.safetensors", "views.safetensors"}
    for name in {*optional, "run.json", "summary.csv", "report.html", "notes.csv"}:
        (tmp_path / name).write_text("old")
    done = run_evaluate(
        f"model.checkpoint={hub_folder}", "logger=none", "trainer=cpu", "aug=noise",
        "data.limit=2", f"hydra.run.dir={tmp_path}", *FEW,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not optional & {file.name for file in tmp_path.iterdir()}
    kept = [f.name for f in tmp_path.iterdir() if f.is_file() and f.read_bytes() == b"old"]
    assert kept == ["notes.csv"]  # it is the user's


def test_what_was_measured_before_an_error_is_kept(
    hub_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = compose_config("evaluate", [
        "logger=none", "trainer=cpu", "data.limit=5", "data.batch_size=2", "aug=noise",
        f"model.checkpoint={hub_folder}",
    ])  # fmt: skip
    step, batches = ShiftEvaluation.test_step, []

    def fails_at_third(self: ShiftEvaluation, batch: object) -> None:
        batches.append(batch)
        if len(batches) == 3:
            raise RuntimeError("the machine caught fire")
        step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(ShiftEvaluation, "test_step", fails_at_third)
    with pytest.raises(RuntimeError, match="caught fire"):
        evaluate(cfg, tmp_path)
    assert len(pd.read_parquet(tmp_path / "shift.parquet")) == 4
    assert not json.loads((tmp_path / "run.json").read_text())["complete"]
    assert f"4 of 5 photos are in {tmp_path}" in capsys.readouterr().err


def test_paper_experiment_runs_offline_from_the_hubs_cache(tmp_path: Path) -> None:
    """With random weights in the cache, where the hub's own client would have put OpenAI's."""
    model = open_clip.create_model("ViT-B-32-quickgelu")
    snapshot = tmp_path / "hub/models--timm--vit_base_patch32_clip_224.openai/snapshots/0"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("0")
    save_file(model.state_dict(), snapshot / "open_clip_model.safetensors")
    done = run_evaluate(
        "experiment=paper", "data.limit=1", "aug=flip", "logger=none", "save.embeddings=true",
        "prompts.templates=['a photo of a {}.']",
        f"hydra.run.dir={tmp_path}/run", env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["model"]["trained"]
    assert facts["model"]["architecture"] == "ViT-B-32-quickgelu"
    view = clean_view(decode(sample()[0].read()), "squash")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    inputs = (view - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.inference_mode():
        expected = model.eval().encode_image(inputs[None])
    got = load_file(tmp_path / "run/embeddings.safetensors")["clean"]
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.photos
@pytest.mark.usefixtures("without_page")
def test_shared_photographs(photos_root: Path, hub_folder: Path, tmp_path: Path) -> None:
    """Parity on photographs from a folder with labels, as a user has them."""
    cfg = compose_config("evaluate", [
        f"model.checkpoint={hub_folder}", "logger=none", "data=folder",
        f"data.root={photos_root / 'imagenet-sample'}", "data.limit=40", "save.embeddings=true",
        "aug=[noise,perspective]", "metric=l2_distance", "prompts=none", "trainer=cpu",
    ])  # fmt: skip
    evaluate(cfg, tmp_path)
    shift = pd.read_parquet(tmp_path / "shift.parquet")
    assert len(shift) == 80
    assert shift["label"].nunique() == 40
    embeddings = load_file(tmp_path / "embeddings.safetensors")
    moved = np.linalg.norm((embeddings["noise"] - embeddings["clean"]).astype(float), axis=1)
    rows = shift[shift["augmentation"] == "noise"]
    np.testing.assert_allclose(rows["l2_distance"], moved, atol=1e-5)
