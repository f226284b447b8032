"""The command ``clipshift demo``: from a checked configuration to the page."""

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from clipshift.choices import choice_names, model_options, read_choice
from clipshift.cli.build import load_classes, make_augmentations, make_encoder
from clipshift.cli.config import plain
from clipshift.demo.photo import Model, make_model
from clipshift.encode.weights import weights_are_here
from clipshift.errors import UserError
from clipshift.pipeline import templates_for
from clipshift.train.export import trained_augmentations

if TYPE_CHECKING:
    import gradio


def demo(cfg: DictConfig) -> None:
    """Show the demo's page until it is stopped.

    Args:
        cfg: The composed and validated ``conf/demo.yaml``.

    Raises:
        UserError: If Gradio is not installed, a model is not available, or the port is in use.
    """
    page = demo_page(cfg)
    from clipshift.demo.page import serve

    serve(page, cfg.port, in_browser=sys.stdout.isatty())


def demo_page(cfg: DictConfig) -> "gradio.Blocks":
    """The demo's page, as `demo` and the Hugging Face Space of ``docs/space`` show it.

    Args:
        cfg: The composed and validated ``conf/demo.yaml``.

    Raises:
        UserError: If Gradio is not installed, or a model is not available.
    """
    if find_spec("gradio") is None:
        raise UserError("the demo needs Gradio: pip install 'clipshift[demo]'")
    from clipshift.demo.page import make_demo

    augmentations, ladders = make_augmentations(plain(cfg.aug))
    return make_demo(demo_models(cfg), augmentations, ladders, cfg.seed, two=bool(cfg.beside))


def demo_models(cfg: DictConfig) -> dict[str, Callable[[], Model]]:
    """The models of the demo by name, each loaded when it is first called.

    Args:
        cfg: The configuration.

    Returns:
        The model of the configuration, that beside it, and all others of ``clipshift models`` whose
        trained weights are on this machine.

    Raises:
        UserError: If there is no such model as ``beside``.
    """
    models = {cfg.model.name: cfg.model}
    if cfg.beside:
        beside = OmegaConf.create(model_options(cfg.beside))
        beside.name += " (beside)" if beside.name in models else ""
        models[beside.name] = beside
    for name in choice_names("model"):
        options = read_choice("model", name)
        weights = options.get("architecture", ""), options.get("pretrained")
        is_trained = ":" in weights[0] or weights[1]
        if "kind" not in options and is_trained and weights_are_here(*weights):
            models.setdefault(name, OmegaConf.create(options))
    return {name: cache(partial(demo_model, cfg, model)) for name, model in models.items()}


def demo_model(cfg: DictConfig, model: DictConfig) -> Model:
    """A model of the demo.

    Args:
        cfg: The configuration.
        model: That of the model.

    Raises:
        UserError: If it is not available.
    """
    classes = load_classes(cfg)
    encoder = make_encoder(plain(model), cfg.precision)
    encoder.fill = False  # one photo's views are a third of a pass, and somebody waits
    templates = templates_for(plain(cfg.prompts), classes)
    trained_on = trained_augmentations(model.get("checkpoint")) or ()
    return make_model(model.name, encoder, classes, templates, trained_on)
