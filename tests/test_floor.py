"""The floor of half precision: against a second computation; and nothing that makes a GPU wait."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.augmentations import PAPER, augmentation_named, augmentations_named, draws_of, ladders
from support.evaluation import MEASURES, run_module
from support.runs import run_info
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clipshift.api import measure_shift
from clipshift.augment import geometric, pixel
from clipshift.augment.keyed import augment, draw
from clipshift.augment.variants import make_variants
from clipshift.data.cache import Cache
from clipshift.data.dataset import ViewDataset, clean_view, collate
from clipshift.data.photos import decode
from clipshift.data.sources import sample
from clipshift.encode.encoder import Encoder, best_precision
from clipshift.encode.feature_cache import FeatureCache
from clipshift.encode.kinds import load_encoder
from clipshift.encode.texts import ZeroShot
from clipshift.evaluate.floor import precision_floor
from clipshift.evaluate.module import RecordOptions, ShiftEvaluation
from clipshift.report import terminal
from clipshift.report.notes import floor_notes
from clipshift.results.measured import Measured
from clipshift.results.records import Records
from clipshift.results.runs import Run


def test_floor_is_what_float32_changes(hub_folder: Path, encoder: Encoder) -> None:
    """Of the first photos alone, each as if it were the only one, whatever the batches."""
    keep = RecordOptions(photos={"floor": range(3)})
    half = load_encoder(f"local-dir:{hub_folder}", precision="bf16")
    names = ["noise", "flip"]
    chosen = augmentations_named(*names)
    photos = sample()[:4]
    variants = make_variants(chosen, ladders(), ["paper"], {})
    dataset = ViewDataset(photos, chosen, 0, "squash")
    records, _ = run_module(half, variants, {}, dataset, 2, keep=keep, reference=encoder)
    measured = records.read()
    for name in names:
        expected = {}
        for index, photo in enumerate(photos[:3]):
            clean = clean_view(decode(photo.read()), "squash")[None]
            draws = {k: v[None] for k, v in draw(chosen[name], 0, photo.id, name, 224).items()}
            view = augment(chosen[name], clean, draws)
            cosines = []
            for model in (half, encoder):
                with torch.inference_mode():
                    e, f = (model(v).embedding[0].double().numpy() for v in (clean, view))
                cosines.append(e @ f / np.linalg.norm(e) / np.linalg.norm(f))
            expected[index] = abs(cosines[0] - cosines[1])
        assert measured.floor[name] == pytest.approx(expected, abs=1e-12)
        assert max(expected.values()) > 1e-6
    told = precision_floor(measured, variants)["flip"]["paper"]
    of_flip = sorted(measured.floor["flip"].values())
    assert told["photos"] == 3
    assert told["mean"] == pytest.approx(sum(of_flip) / 3)
    assert of_flip[1] <= told["p95"] <= of_flip[2]


def test_run_in_float32_has_no_floor() -> None:
    assert precision_floor(Measured(), {}) == {}


def test_shifts_below_the_floor_are_marked() -> None:
    summary = pd.DataFrame(
        {"augmentation": ["noise", "flip"], "severity": "paper", "measure": "cosine_similarity",
         "mean": [0.6, 0.999]}
    )  # fmt: skip
    found = {"mean": 0.001, "p95": 0.002, "photos": 32}
    floors = {name: {"paper": found} for name in ("noise", "flip")}
    info = run_info(floor=floors, precision="bf16")
    run = Run(Path(), info, {}, pd.DataFrame(), summary)
    assert run.below_floor == {("flip", "paper")}
    assert terminal.starred("flip", run, ["paper"]) == "flip °"
    assert terminal.starred("noise", run, ["paper"]) == "noise"
    first, second = floor_notes(run)
    most = "by at most 0.002 under noise, 0.002 under flip."
    assert first.endswith(f"over 32 photos: 95 % of cosines differ from float32’s {most}")
    assert ": flip." in second
    assert not [*floor_notes(Run(Path(), run_info(), {}, pd.DataFrame(), summary))]


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")],
)
def test_precision_that_suits_a_processor(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert best_precision("cpu") == expected


def test_auto_run_says_its_precision_and_floor(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = measure_shift(
        model=hub_folder, augmentations=["flip"], sample=2, precision="auto", prompts="none",
        measures="cosine_similarity", progress=False, folder=tmp_path,
    )  # fmt: skip
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["precision"] == "bf16"
    assert facts["floor"]["flip"]["paper"]["photos"] == 2
    assert facts["seconds"]["floor"] > 0
    assert any("Precision error of bf16" in note for note in floor_notes(result.run))
    result.save(tmp_path)
    assert "Precision error of bf16" in (tmp_path / "report.html").read_text()


class Waits(TorchDispatchMode):
    """Notes what a GPU's results would have to be waited for: numbers and shapes read from them."""

    READ = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.READ or masks:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentations take the way that they take on a GPU."""
    for module in (geometric, pixel):
        monkeypatch.setattr(module, "on_accelerator", lambda images: True)


def test_step_waits_for_nothing(as_on_a_gpu: None, encoder: Encoder, tmp_path: Path) -> None:
    """What is measured leaves the device as one block, and nothing is read from it before."""
    dataset = ViewDataset(sample()[:2], augmentations_named(*PAPER), 0, "squash")
    batch = collate([dataset[index] for index in range(2)])
    records = Records(tmp_path)
    records.begin({}, restart=True)
    classifier = torch.nn.functional.normalize(torch.rand(32, 4), dim=0)
    first = ("gazes", "nearest", "floor")
    module = ShiftEvaluation(
        encoder, make_variants(augmentations_named(*PAPER), ladders(), ["paper"], {}),
        {name: kind() for name, kind in MEASURES.items()}, records,
        RecordOptions(photos={"gallery": {1}, "views": [0]} | dict.fromkeys(first, range(2))),
        layers=True, reference=encoder,
        zero_shot=ZeroShot(classifier, torch.tensor([0, 3]), tuple("abcd")),
        texts=torch.rand(2, 32), features=FeatureCache(Cache(str(tmp_path), 1), "features"),
    )  # fmt: skip
    module.on_test_epoch_start()
    with torch.no_grad(), Waits() as waits:
        module.test_step(batch)
    assert waits.seen == set()
    assert module.features is not None
    assert module.features.get(batch.digests, torch.device("cpu")) is not None
    assert set(records.read().views) == {"clean", *PAPER}


def test_waits_are_noticed() -> None:
    numbers = torch.arange(3.0)
    for read in (
        lambda: numbers[numbers > 1],
        lambda: bool(numbers.any()),
        lambda: numbers.max().item(),
    ):
        with torch.no_grad(), Waits() as waits:
            read()
        assert waits.seen


@pytest.mark.parametrize("name", ["color_jitter", "elastic"])
def test_way_of_a_gpu_gives_the_same_views(
    name: str, views: Tensor, request: pytest.FixtureRequest
) -> None:
    augmentation, draws = augmentation_named(name), draws_of(name, len(views))

    def made() -> list[Tensor]:
        back = [augmentation.move_back(views, draws)] if augmentation.moves_pixels else []
        return [augment(augmentation, views, draws), *back]

    expected = made()
    request.getfixturevalue("as_on_a_gpu")
    for one, other in zip(expected, made(), strict=True):
        assert torch.equal(one, other)
