"""Encoders: gaze against attention computed otherwise, loading, and independence of the batch."""

import copy
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from support.hub import put_in_cache
from support.models import VIT, write_hub_folder
from torch import Tensor, nn
from torch.nn.functional import interpolate, multi_head_attention_forward

from clipshift.data.sources import sample
from clipshift.encode import open_clip_models
from clipshift.encode.encoder import Encoder
from clipshift.encode.kinds import load_encoder
from clipshift.encode.last_block import only_class_token
from clipshift.encode.packing import packed_weights
from clipshift.errors import UserError

TIMM = {"timm_model_name": "test_vit", "image_size": 160}
TOWERS = {
    "timm_class_token": TIMM | {"timm_pool": "token", "timm_proj": "linear"},
    "timm_attention_pool": TIMM | {"timm_pool": "map", "timm_proj": "none"},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "coca": VIT | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
}


def model_inputs(encoder: Encoder, views: Tensor) -> Tensor:
    resized = views
    if views.shape[-2:] != encoder.input_size:
        resized = interpolate(views, encoder.input_size, mode="bilinear", antialias=True)
    return (resized - encoder.mean) / encoder.std


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    root = tmp_path_factory.mktemp("towers")
    return {
        name: load_encoder(f"local-dir:{write_hub_folder(root / name, vision)}")
        for name, vision in TOWERS.items()
    }


def test_vit_gaze_is_what_multihead_attention_says(encoder: Encoder, views: Tensor) -> None:
    asked = {}
    block = encoder.model.visual.transformer.resblocks[-1]
    attention = block.attn.forward

    def forward_with_weights(q: Tensor, k: Tensor, v: Tensor, **options: object):
        options |= {"need_weights": True, "average_attn_weights": True}
        output, asked["weights"] = attention(q, k, v, **options)
        return output, None

    block.attn.forward = forward_with_weights
    try:
        expected_embedding = encoder.model.encode_image(model_inputs(encoder, views))
    finally:
        del block.attn.forward
    features = encoder(views)
    expected = asked["weights"][:, 0, 1:].unflatten(-1, (4, 4))
    torch.testing.assert_close(features.gaze, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.embedding, expected_embedding, atol=1e-5, rtol=1e-5)
    assert (features.gaze.sum((1, 2)) < 1).all()
    assert (features.gaze > 0).all()


def normalize_queries_and_keys(layer: nn.Module) -> None:
    """Give an attention layer norms with weights that matter, as of timm's ``qk_norm=True``."""
    generator = torch.Generator().manual_seed(0)
    for name in ("q_norm", "k_norm"):
        norm = nn.LayerNorm(layer.head_dim)
        norm.weight.copy_(2 * torch.randn(layer.head_dim, generator=generator))
        norm.bias.copy_(torch.randn(layer.head_dim, generator=generator))
        setattr(layer, name, norm)


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_timm_class_token_gaze(towers: dict[str, Encoder], views: Tensor, qk_norm: bool) -> None:
    """Against timm's own unfused attention, whose weights pass through its dropout layer."""
    encoder = copy.deepcopy(towers["timm_class_token"])
    attention = encoder.model.visual.trunk.blocks[-1].attn
    if qk_norm:
        normalize_queries_and_keys(attention)
    asked = []
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _, args, out: asked.append(out))
    gaze = encoder(views[:2]).gaze
    expected = asked[0][:2].mean(dim=1)[:, 0, 1:].unflatten(-1, (10, 10))
    torch.testing.assert_close(gaze, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_siglip_gaze_weights_the_values_as_the_pool_does(
    towers: dict[str, Encoder], views: Tensor, qk_norm: bool
) -> None:
    """With the tokens' first numbers as every head's values, heads return the weighted tokens."""
    encoder = copy.deepcopy(towers["timm_attention_pool"])
    pool = encoder.model.visual.trunk.attn_pool
    width, heads = pool.latent.shape[-1], pool.num_heads
    assert heads > 1
    pool.latent.copy_(torch.randn(pool.latent.shape, generator=torch.Generator().manual_seed(1)))
    if qk_norm:
        normalize_queries_and_keys(pool)
    pool.kv.weight[width:] = torch.eye(width)[: pool.head_dim].repeat(heads, 1)
    pool.kv.bias[width:] = 0
    kept = {}
    pool.register_forward_pre_hook(lambda _, args: kept.update(tokens=args[0]))
    pool.proj.register_forward_pre_hook(lambda _, args: kept.update(heads=args[0]))
    gaze = encoder(views[:2]).gaze
    seen = kept["heads"][:2, 0].unflatten(-1, (heads, -1)).mean(dim=1)
    expected = torch.einsum("bn,bnd->bd", gaze.flatten(1), kept["tokens"][:2, :, : pool.head_dim])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gaze.sum((1, 2)), torch.ones(2))


@torch.no_grad()
def test_resnet_gaze_is_what_its_pool_says(towers: dict[str, Encoder], views: Tensor) -> None:
    encoder = towers["resnet"]
    pool = encoder.model.visual.attnpool
    kept = {}
    handle = pool.register_forward_pre_hook(lambda _, args: kept.update(x=args[0]))
    gaze = encoder(views[:2]).gaze
    handle.remove()
    x = kept["x"][:2].flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x]) + pool.positional_embedding[:, None]
    _, weights = multi_head_attention_forward(
        x[:1],
        x,
        x,
        x.shape[-1],
        pool.num_heads,
        None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        None,
        None,
        False,
        0.0,
        pool.c_proj.weight,
        pool.c_proj.bias,
        training=False,
        need_weights=True,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    torch.testing.assert_close(gaze.flatten(1), weights[:, 0, 1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_coca_gaze_is_its_first_query(towers: dict[str, Encoder], views: Tensor) -> None:
    encoder = towers["coca"]
    pooler = encoder.model.visual.attn_pool
    kept = {}
    handle = pooler.register_forward_pre_hook(lambda _, args: kept.update(x=args[0]))
    gaze = encoder(views[:2]).gaze
    handle.remove()
    x = pooler.ln_k(kept["x"][:2])
    query = pooler.ln_q(pooler.query).expand(2, -1, -1)
    _, weights = pooler.attn(query, x, x, need_weights=True)
    torch.testing.assert_close(gaze.flatten(1), weights[:, 0, 1:], atol=1e-5, rtol=0)


def test_a_tower_without_gaze_says_so(tmp_path: Path, views: Tensor) -> None:
    mean_pooled = load_encoder(
        f"local-dir:{write_hub_folder(tmp_path, VIT | {'pool_type': 'avg'})}"
    )
    assert mean_pooled.probe is None
    assert mean_pooled(views[:1]).gaze is None


def test_embedding_does_not_depend_on_its_company(encoder: Encoder, views: Tensor) -> None:
    together = encoder(views.repeat(5, 1, 1, 1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [encoder(view[None]) for view in views]
    finally:
        torch.set_num_threads(threads)
    for row in range(40):
        assert torch.equal(together.embedding[row], alone[row % 8].embedding[0])
        assert torch.equal(together.gaze[row], alone[row % 8].gaze[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(hub_folder: Path, views: Tensor, precision: str) -> None:
    full, half = (
        load_encoder(f"local-dir:{hub_folder}", precision=p)(views) for p in ("fp32", precision)
    )
    assert half.embedding.dtype == torch.float32
    assert torch.cosine_similarity(full.embedding, half.embedding).min() > 0.999
    assert 0 < (half.gaze - full.gaze).abs().max() < 0.01


def test_packed_weights_multiply_as_the_others_do(hub_folder: Path, views: Tensor) -> None:
    """In bfloat16 on a CPU that has it, within alone; elsewhere nothing changes."""
    for precision in ("bf16", "fp32"):
        half = load_encoder(f"local-dir:{hub_folder}", precision=precision)
        linear, changed = half.model.visual.transformer.resblocks[0].mlp[::2]
        patched = changed.forward = lambda x, layer=changed: 2 * type(layer).forward(layer, x)
        before = half(views)
        with packed_weights(half):
            packed = "forward" in vars(linear)
            within = half(views)
            assert changed.forward is patched
        assert packed == (precision == "bf16" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        assert "forward" not in vars(linear)
        torch.testing.assert_close(within.embedding, before.embedding, rtol=2**-7, atol=2**-7)
        if not packed:
            assert torch.equal(within.embedding, before.embedding)


def test_the_last_block_goes_on_from_the_class_token_alone(encoder: Encoder, views: Tensor) -> None:
    """The embedding is open_clip's own, and the same with all layers; afterwards all is as was."""
    tower = encoder.model.visual
    block, widths = tower.transformer.resblocks[-1], []
    with torch.inference_mode():
        whole = tower(model_inputs(encoder, views))
        handle = block.register_forward_hook(
            lambda *hook_arguments: widths.append(hook_arguments[2].shape[1])
        )
        alone, layered = encoder(views), encoder(views, layers=True)
        handle.remove()
        assert torch.equal(tower(model_inputs(encoder, views)), whole)
    assert widths == [1, 1 + tower.grid_size[0] * tower.grid_size[1]]
    assert torch.equal(alone.embedding, layered.embedding)
    assert torch.equal(alone.gaze, layered.gaze)
    torch.testing.assert_close(alone.embedding, whole, rtol=0, atol=1e-5)
    ended = tower.ln_post(layered.layers[-1][:, 0]) @ tower.proj
    torch.testing.assert_close(ended, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "vision",
    [
        VIT | {"ls_init_value": 0.5},
        VIT | {"final_ln_after_pool": True},
        VIT | {"pool_type": "avg"},
        VIT | {"no_ln_pre": True},
        TOWERS["coca"],
    ],
)
def test_the_last_block_of_other_vits(tmp_path: Path, views: Tensor, vision: dict) -> None:
    encoder = load_encoder(f"local-dir:{write_hub_folder(tmp_path, vision)}")
    with torch.inference_mode():
        whole = encoder.model.encode_image(model_inputs(encoder, views))
        torch.testing.assert_close(encoder(views).embedding, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["block", "attention"])
def test_a_last_block_of_ones_own_computes_what_it_says(
    encoder: Encoder, views: Tensor, part: str
) -> None:
    tower = copy.deepcopy(encoder.model.visual)
    block = tower.transformer.resblocks[-1]
    changed = block if part == "block" else block.attn
    kind = type(changed)

    def forward(self: Any, tokens: Tensor, *inputs: Any, **options: Any) -> Any:
        return kind.forward(self, 2 * tokens, *inputs, **options)

    changed.__class__ = type("Own", (kind,), {"forward": forward})
    with torch.inference_mode():
        inputs = model_inputs(encoder, views)
        whole = tower(inputs)
        with only_class_token(tower, patches=False):
            torch.testing.assert_close(tower(inputs), whole, rtol=0, atol=1e-5)
        assert not torch.allclose(encoder.model.visual(inputs), whole, atol=1e-2)


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "uint8: divide"),
        (torch.full((2, 3, 8, 8), 255.0), ValueError, "from 255 to 255"),
        (torch.full((2, 3, 8, 8), -1.8), ValueError, "mean and std"),
        (torch.full((2, 3, 8, 8), 1.002), ValueError, "to 1.002"),
        (torch.full((2, 3, 8, 8), torch.nan), ValueError, "nan"),
        (torch.zeros(3, 8, 8), ValueError, r"\(3, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3), ValueError, r"\(2, 8, 8, 3\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"\(0, 3, 8, 8\)"),
        (np.zeros((8, 8, 3)), ValueError, "float64"),
        (np.zeros((8, 8), np.uint8), ValueError, r"\(8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"\(2, 8, 8, 3\)"),
        ([torch.zeros(3, 8, 8)], TypeError, "Tensor"),
        ("photo.jpg", TypeError, "str"),
        (None, TypeError, "NoneType"),
        ([], ValueError, "empty"),
    ],
)
def test_what_is_no_view_is_refused_in_one_line(
    encoder: Encoder, given: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        encoder(given)
    assert "\n" not in str(caught.value)


def test_views_a_little_beyond_their_range_are_views(encoder: Encoder, views: Tensor) -> None:
    """As interpolation leaves them, in any precision."""
    expected = encoder(views[:1]).embedding
    assert torch.equal(encoder(views[:1].double()).embedding, expected)
    torch.testing.assert_close(encoder(views[:1] + 5e-4).embedding, expected, atol=1e-2, rtol=0)


def test_pictures_become_the_clean_views_of_a_run(encoder: Encoder, views: Tensor) -> None:
    files = [io.BytesIO(photo.read()) for photo in sample()[:2]]
    pictures = [Image.open(file) for file in files]
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    expected = encoder(views[:2]).embedding
    for given in (pictures, arrays, tuple(arrays), [pictures[0], arrays[1]]):
        assert torch.equal(encoder(given).embedding, expected)
    for given in (pictures[1], arrays[1]):
        assert torch.equal(encoder(given).embedding, expected[1:])


def test_pictures_are_turned_upright(encoder: Encoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", exif=exif)
    turned = encoder(Image.open(stream)).embedding
    assert torch.equal(turned, encoder(np.rot90(pixels, 3).copy()).embedding)


# --- loading -------------------------------------------------------------------------------------


def test_random_weights_come_from_a_fixed_seed() -> None:
    torch.manual_seed(1)
    first = load_encoder("ViT-S-32-alt")
    torch.manual_seed(2)
    second = load_encoder("ViT-S-32-alt")
    assert not first.trained
    assert first.weights_sha256 == second.weights_sha256
    assert load_encoder("ViT-S-32-alt", seed=1).weights_sha256 != first.weights_sha256


def test_every_kind_of_checkpoint_gives_the_same_weights(
    hub_folder: Path, tmp_path: Path, views: Tensor
) -> None:
    reference = load_encoder(f"local-dir:{hub_folder}")
    weights = reference.model.state_dict()
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "ddp.pt")
    other = write_hub_folder(tmp_path / "other", VIT, seed=7)
    assert load_encoder(f"local-dir:{other}").weights_sha256 != reference.weights_sha256
    for checkpoint in (
        tmp_path / "plain.pt",
        tmp_path / "ddp.pt",
        hub_folder / "open_clip_model.safetensors",
    ):
        encoder = load_encoder(f"local-dir:{other}", checkpoint=str(checkpoint))
        assert encoder.trained
        assert encoder.weights_sha256 == reference.weights_sha256
    encoder = load_encoder("ViT-B-32", checkpoint=str(hub_folder))
    assert torch.equal(encoder(views).embedding, reference(views).embedding)


@pytest.mark.parametrize(
    ("part", "change"),
    [("preprocess_cfg", {"mean": [0.5, 0.5, 0.5]}), ("model_cfg", {"quick_gelu": True})],
)
def test_models_of_the_same_weights_are_told_apart(
    hub_folder: Path, tmp_path: Path, part: str, change: dict
) -> None:
    reference = load_encoder(f"local-dir:{hub_folder}")
    assert load_encoder(f"local-dir:{hub_folder}").fingerprint == reference.fingerprint
    shutil.copy(hub_folder / "open_clip_model.safetensors", tmp_path)
    described = json.loads((hub_folder / "open_clip_config.json").read_text())
    described[part] |= change
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    other = load_encoder(f"local-dir:{tmp_path}")
    assert other.weights_sha256 == reference.weights_sha256
    assert other.fingerprint != reference.fingerprint


def test_weights_match_open_clips_own_loading(hub_folder: Path, views: Tensor) -> None:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{hub_folder}")
    encoder = load_encoder(f"local-dir:{hub_folder}")
    expected = model.eval().encode_image(model_inputs(encoder, views))
    torch.testing.assert_close(encoder(views).embedding, expected, atol=1e-5, rtol=1e-5)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.48, 0.46, 0.41])


def test_own_checkpoint_keeps_the_pixel_statistics_of_its_tag(tmp_path: Path) -> None:
    """MobileCLIP takes pixels as they are; open_clip would give a bare file CLIP's mean and std."""
    model = open_clip.create_model("MobileCLIP2-S0")
    torch.save(model.state_dict(), tmp_path / "robust.pt")
    encoder = load_encoder("MobileCLIP2-S0", "dfndr2b", checkpoint=str(tmp_path / "robust.pt"))
    assert encoder.mean.flatten().tolist() == [0, 0, 0]
    assert encoder.std.flatten().tolist() == [1, 1, 1]


def test_a_hub_folder_without_weights_is_not_a_trained_model(
    hub_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(hub_folder / "open_clip_config.json", tmp_path)
    assert "cannot be loaded" in message(f"local-dir:{tmp_path}")


def test_hub_model_loads_from_the_cache_without_network(hub_folder: Path, hub_cache: Path) -> None:
    files = {file.name: file for file in hub_folder.iterdir()}
    put_in_cache(hub_cache, "someone/small-vit", files)
    encoder = load_encoder("hf-hub:someone/small-vit")
    assert encoder.weights_sha256 == load_encoder(f"local-dir:{hub_folder}").weights_sha256


def test_built_in_weights_are_checked(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip_models, "MODELS", tmp_path)
    folder = shutil.copytree(hub_folder, tmp_path / "mine")
    file = folder / "open_clip_model.safetensors"
    digest = subprocess.run(["sha256sum", file.name], cwd=folder, capture_output=True, check=True)
    (folder / f"{file.name}.sha256").write_bytes(digest.stdout)
    encoder = load_encoder("builtin:mine")
    assert encoder.weights_sha256 == load_encoder(f"local-dir:{hub_folder}").weights_sha256
    assert "did you mean 'mine'" in message("builtin:mina")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "is damaged" in message("builtin:mine")


def message(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_encoder(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_mistakes_are_one_clear_line(
    hub_folder: Path, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean 'ViT-B-32'" in message("ViT-B-33")
    assert "did you mean 'openai'" in message("ViT-B-32-quickgelu", "openaii")
    assert "-quickgelu" in message("ViT-B-32", "openai")
    assert "no checkpoint" in message("ViT-B-32", checkpoint=str(tmp_path / "nothing.pt"))
    assert "open_clip_config.json" in message(f"local-dir:{tmp_path}")
    other = write_hub_folder(tmp_path / "wide", VIT | {"width": 128})
    fitted = message(
        f"local-dir:{other}", checkpoint=str(hub_folder / "open_clip_model.safetensors")
    )
    assert "is not a checkpoint of" in fitted
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    assert "cannot be loaded" in message(
        "ViT-S-32-alt", checkpoint=str(tmp_path / "broken.safetensors")
    )
    for nothing in ({}, {"state_dict": {}}):
        torch.save(nothing, tmp_path / "empty.pt")
        said = message("ViT-S-32-alt", checkpoint=str(tmp_path / "empty.pt"))
        assert said == f"{tmp_path}/empty.pt cannot be loaded: it holds no weights"
        assert said == message("ViT-S-32-alt", image_tower=str(tmp_path / "empty.pt"))
    torch.save({"code": json.JSONDecoder}, tmp_path / "unsafe.pt")
    assert "unsafe.pt" in message("ViT-S-32-alt", checkpoint=str(tmp_path / "unsafe.pt"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    offline = message("ViT-B-32-quickgelu", "openai")
    assert "model=lite" in offline


@pytest.mark.parametrize("asks", [True, False])
def test_no_code_of_a_models_folder_is_run(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """A tokenizer's own Python, by ``trust_remote_code`` in the folder's configuration."""
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "someone/else",
        "tokenizer_kwargs": {"trust_remote_code": True} if asks else {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(open_clip_models, "hub_file", lambda *_: None)  # as if it were cached
    loaded = load_encoder(f"local-dir:{folder}")
    with pytest.raises(
        UserError, match="running remote code" if asks else "cannot load the tokenizer"
    ):
        loaded.encode_texts(["a cat"])
    assert not (tmp_path / "ran").exists()


ELSEWHERE = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "hf-hub:a/b"}, "text_cfg": {}}


@pytest.mark.parametrize(
    "change",
    [{"model_cfg": c} for c in (ELSEWHERE, ELSEWHERE | {"vision_cfg": []}, 1)] + [{"text": []}],
)
def test_a_tower_that_is_elsewhere_is_refused(
    hub_folder: Path, tmp_path: Path, change: dict
) -> None:
    """And a configuration of another shape, before open_clip builds anything of it."""
    folder = shutil.copytree(hub_folder, tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=r"not one of timm's own|should be"):
        load_encoder(f"local-dir:{folder}")


def test_order_of_pixels_in_memory_does_not_matter(encoder: Encoder, views: Tensor) -> None:
    """As an augmentation of one's own may hand them out: channels last."""
    turned = views.contiguous(memory_format=torch.channels_last)
    assert torch.equal(encoder(turned).embedding, encoder(views).embedding)
