"""`clipshift check`: what is here is held to its value, what is not is never passed."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
import skimage.data
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from support.models import VIT, write_hub_folder
from support.terminal import ROOT

from clipshift.cli.check import check
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.encode import weights
from clipshift.encode.kinds import load_encoder
from clipshift.errors import UserError
from clipshift.report.check import verdict

MODELS = ROOT / "clipshift" / "models"
BUILTIN = {"camera.png": "tripod", "chelsea.png": "tabby cat", "coffee.png": "espresso",
           "motorcycle_left.png": "moped", "rocket.jpg": "missile"}  # fmt: skip
ABSENT = ["check.data.imagenet_sample.root=null", "check.data.tiny_imagenet.root=null"]


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    given = ["experiment=check", "logger=none", "trainer=cpu", "data.num_workers=0", *ABSENT]
    return compose_config("evaluate", given)


@pytest.fixture
def checked(composed: DictConfig, tmp_path: Path) -> Callable[..., tuple[pd.DataFrame, bool]]:
    """Check with some options, in this process: ``check.csv``, and whether it passes."""

    def run(*options: str, rows: list[dict] | None = None) -> tuple[pd.DataFrame, bool]:
        cfg: Any = OmegaConf.merge(composed, OmegaConf.from_dotlist(list(options)))
        validate(cfg, "evaluate")
        if rows is not None:
            cfg.check.rows = [{"source": "reference"} | row for row in rows]
        passed = check(cfg, tmp_path / "run")
        return pd.read_csv(tmp_path / "run" / "check.csv", keep_default_na=False), passed

    return run


@torch.inference_mode()
def plain_cosine(folder: Path) -> float:
    """The mean cosine of the built-in photographs and their classes, by open_clip and Pillow."""
    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(
        model,
        open_clip.get_tokenizer(name),
        list(BUILTIN.values()),
        open_clip.OPENAI_IMAGENET_TEMPLATES,
    )
    photos = Path(skimage.data.__file__).parent
    images = torch.stack([transform(Image.open(photos / photo)) for photo in BUILTIN])
    embeddings = model.encode_image(images, normalize=True)
    return float((embeddings * classifier.T).sum(dim=1).mean())


def with_other_activation(folder: Path) -> Path:
    """The model `lite` under a config that says QuickGELU, which it was not trained with."""
    made = folder / "quickgelu"
    shutil.copytree(MODELS / "lite", made)
    config = json.loads((made / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (made / "open_clip_config.json").write_text(json.dumps(config))
    return made


def test_what_is_here_passes_and_what_is_not_says_so(
    checked: Callable[..., tuple[pd.DataFrame, bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "cached_file", lambda repo, name: None)
    monkeypatch.setattr(weights, "downloaded", lambda address: tmp_path / "none")
    table, passed = checked()
    said = capsys.readouterr().out
    assert passed
    here = table[table["within"] == "yes"]
    assert set(here["model"]) == {"lite", "tiny"}
    assert set(here["data"]) == {"sample"}
    missing = table[table["within"] != "yes"]
    assert set(missing["within"]) == {"not checked"}
    assert (missing["ours"] == "").all()
    assert missing["reason"].str.startswith("no ").all()
    assert f"{len(here)} within tolerance, {len(missing)} not checked, 0 outside" in said
    assert "check.shards=FOLDER/wds_{}" in said
    assert "check.data.imagenet_sample.root=FOLDER" in said
    assert json.loads((tmp_path / "run" / "check.json").read_text())["rows"][0]["within"] == "yes"
    assert {file.name for file in (tmp_path / "run").iterdir()} <= {
        "check.csv",
        "check.json",
        ".lock",
    }
    cosine = here[(here["model"] == "lite") & (here["measure"] == "cosine")]["ours"].item()
    assert float(cosine) == pytest.approx(100 * plain_cosine(MODELS / "lite"), abs=1e-3)


def test_a_model_with_another_activation_fails(
    checked: Callable[..., tuple[pd.DataFrame, bool]], tmp_path: Path
) -> None:
    made = with_other_activation(tmp_path)
    published = yaml.safe_load((ROOT / "conf" / "experiment" / "check.yaml").read_text())["check"]
    [row] = [r for r in published["rows"] if r["model"] == "lite" and "cosine" in r]
    table, passed = checked(f"check.models.lite.checkpoint={made}", rows=[row])
    assert not passed
    row = table[(table["model"] == "lite") & (table["measure"] == "cosine")].iloc[0]
    assert row["within"] == "no"
    assert float(row["ours"]) == pytest.approx(100 * plain_cosine(made), abs=1e-3)
    assert "1 outside" in verdict(table)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """Three photographs in folders called by WordNet ids, and as CLIP_benchmark's shards."""
    folder, shards = tmp_path / "val", tmp_path / "wds_imagenet-r"
    shown = [("chelsea.png", "n02123045"), ("coffee.png", "n07920052"), ("camera.png", "n04485082")]
    (shards / "test").mkdir(parents=True)
    with tarfile.open(shards / "test" / "0.tar", "w") as tar:
        for index, (name, label) in enumerate(shown):
            (folder / label).mkdir(parents=True)
            file = folder / label / name
            shutil.copy(Path(skimage.data.__file__).parent / name, file)
            (tmp_path / "cls").write_text(str(index))
            tar.add(file, f"{index}.png")
            tar.add(tmp_path / "cls", f"{index}.cls")
    (shards / "test" / "nshards.txt").write_text("1")
    (shards / "classnames.txt").write_text("tabby cat\nespresso\ntripod\n")
    return folder, tmp_path / "wds_{}"


def test_folders_and_shards_of_one_set_give_the_same(
    checked: Callable[..., tuple[pd.DataFrame, bool]], photos: tuple[Path, Path]
) -> None:
    three = "check.data.imagenet-r.photos=3"
    rows = [
        {"model": "tiny", "data": data, "cosine": 0.0, "source": "reference"}
        for data in ("imagenet-r", ["imagenet-r", "sample"])
    ]
    folder, _ = checked(three, f"check.data.imagenet-r.root={photos[0]}", rows=rows)
    shards, _ = checked(three, f"check.shards='{photos[1]}'", rows=rows)
    pd.testing.assert_frame_equal(folder, shards)
    assert folder["photos"].tolist() == [3, 8]
    alone, _ = checked(rows=[rows[0] | {"data": "sample"}])
    mean = (float(folder["ours"][0]) + float(alone["ours"][0])) / 2
    assert float(folder["ours"][1]) == pytest.approx(mean)


def test_a_part_of_the_photos_is_not_what_was_published(
    checked: Callable[..., tuple[pd.DataFrame, bool]], photos: tuple[Path, Path]
) -> None:
    rows = [{"model": "tiny", "data": "imagenet-r", "top1": 100.0}]
    table, passed = checked(f"check.data.imagenet-r.root={photos[0]}", rows=rows)
    assert passed
    assert table["within"].item() == "not checked"
    assert table["reason"].item() == "imagenet-r has 3 photos with a class here, not 30,000"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["check.data.imagenet1k.root=nowhere"], "no photos: there is no nowhere"),
        (["check.shards='nowhere/wds_{}'"], "no photos: there is no nowhere/wds_imagenet1k"),
        (
            ["check.models.tiny.checkpoint=none.pt"],
            "no weights none.pt: set check.models.tiny.checkpoint=FILE",
        ),
    ],
)
def test_what_is_not_where_it_should_be_is_not_checked(
    options: list[str], reason: str, checked: Callable[..., tuple[pd.DataFrame, bool]]
) -> None:
    data = "sample" if "models" in options[0] else "imagenet1k"
    rows = [{"model": "tiny", "data": data, "top1": 50.0}]
    table, passed = checked(*options, rows=rows)
    assert passed
    assert table[["within", "reason"]].to_numpy().tolist() == [["not checked", reason]]


def test_what_is_here_and_damaged_fails(
    checked: Callable[..., tuple[pd.DataFrame, bool]], photos: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "tiny.pt").write_bytes(b"broken")
    rows = [{"model": "tiny", "data": "sample", "top1": 50.0}]
    table, passed = checked(f"check.models.tiny.checkpoint={tmp_path}/tiny.pt", rows=rows)
    assert not passed
    assert table["within"].item() == "no"
    assert "tiny.pt" in table["reason"].item()
    (photo,) = (photos[0] / "n02123045").iterdir()
    photo.write_bytes(b"broken")
    options = ["check.data.imagenet-r.photos=3", f"check.data.imagenet-r.root={photos[0]}"]
    table, passed = checked(*options, rows=[rows[0] | {"data": "imagenet-r"}])
    assert not passed
    assert table["reason"].item() == "imagenet-r: only 2 of 3 photos can be read"


def test_weights_are_loaded_into_the_wrong_architecture_where_a_row_says_so(
    composed: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a tag, open_clip's ViT-B-32 with these weights is refused."""
    from clipshift.cli import check as module

    asked, made = [], []

    def find(*tag: str) -> tuple[Path, dict]:
        asked.append(tag)
        return Path("weights.safetensors"), {}

    monkeypatch.setattr(module, "weights_are_here", lambda *tag: True)
    monkeypatch.setattr(module, "find_checkpoint", find)
    monkeypatch.setattr(module, "make_encoder", lambda model, precision: made.append(model))
    module.encoder_of(module.model_here(composed, "vit_b32_laion400m_gelu"), "fp32")
    assert asked == [("ViT-B-32-quickgelu", "laion400m_e32")]
    assert (made[0]["architecture"], made[0]["checkpoint"]) == ("ViT-B-32", "weights.safetensors")


def test_weights_that_cannot_be_downloaded_are_not_checked(
    checked: Callable[..., tuple[pd.DataFrame, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipshift.cli import check as module

    def unreachable(*_: object) -> None:
        raise UserError("cannot download it")

    monkeypatch.setattr(module, "weights_are_here", lambda *tag: False)
    monkeypatch.setattr(module, "make_encoder", unreachable)
    rows = [{"model": "rn50_openai", "data": "sample", "top1": 50.0}]
    table, passed = checked("check.download=true", rows=rows)
    assert passed
    assert table[["within", "reason"]].to_numpy().tolist() == [
        ["not checked", "cannot download it"]
    ]


def test_the_weights_of_an_image_tower_take_the_place_of_a_tags(
    tmp_path: Path, hub_folder: Path
) -> None:
    """As FARE's and TeCoA's are published: without the names of the text tower."""
    other = write_hub_folder(tmp_path / "other", VIT, seed=1)
    made = load_encoder(f"local-dir:{other}").model
    torch.save(made.visual.state_dict(), tmp_path / "tower.pt")
    encoder = load_encoder(f"local-dir:{hub_folder}", image_tower=str(tmp_path / "tower.pt"))
    base = load_encoder(f"local-dir:{hub_folder}").model
    photos, texts = torch.rand(2, 3, 64, 64), torch.randint(9, (2, 16))
    with torch.inference_mode():
        assert torch.equal(encoder.model.encode_image(photos), made.encode_image(photos))
        assert torch.equal(encoder.model.encode_text(texts), base.encode_text(texts))
    torch.save(base.state_dict(), tmp_path / "whole.pt")
    for file, reason in (("whole.pt", "is not a checkpoint of"), ("none.pt", "no weights")):
        with pytest.raises(UserError, match=reason):
            load_encoder(f"local-dir:{hub_folder}", image_tower=str(tmp_path / file))


def test_every_published_value_has_a_model_photos_and_a_source(composed: DictConfig) -> None:
    table = yaml.safe_load((ROOT / "conf" / "experiment" / "check.yaml").read_text())["check"]
    for row in table["rows"]:
        assert row["model"] in composed.check.models
        assert row["source"] in table["sources"]
        assert sum(measure in row for measure in ("top1", "cosine")) == 1
    published = {(row["model"], str(row["data"])): row.get("top1") for row in table["rows"]}
    # of the issue that asked for them
    for model, value in {"vit_b32_openai": 63.3, "vit_b16_openai": 68.4, "vit_l14_openai": 75.5,
                         "vit_b32_laion2b": 66.6, "rn50_openai": 59.8, "vit_b32_laion400m": 62.9,
                         "vit_b32_laion400m_gelu": 60.2}.items():  # fmt: skip
        assert published[model, "imagenet1k"] == pytest.approx(value, abs=0.1)


def test_the_verdict_counts_every_row() -> None:
    table = pd.DataFrame({"within": ["yes", "no", "not checked", "no"]})
    assert verdict(table) == "1 within tolerance, 1 not checked, 2 outside"
