"""The command ``clipshift demo``: from a checked configuration to the page."""

import sys
from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from clipshift.choices import model_options
from clipshift.cli.build import load_classes, make_augmentations, make_encoder
from clipshift.cli.config import plain
from clipshift.demo.photo import Model, make_model
from clipshift.errors import UserError
from clipshift.pipeline import templates_for
from clipshift.train.export import trained_augmentations


def demo(cfg: DictConfig) -> None:
    """Show the demo's page until it is stopped.

    Args:
        cfg: The composed and validated ``conf/demo.yaml``.

    Raises:
        UserError: If Gradio is not installed, a model is not available, or the port is in use.
    """
    if find_spec("gradio") is None:
        raise UserError("the demo needs Gradio: pip install 'clipshift[demo]'")
    from clipshift.demo.page import make_demo, serve

    chosen = [cfg.model]
    if cfg.beside:
        chosen.append(OmegaConf.create(model_options(cfg.beside)))
    augmentations, ladders = make_augmentations(plain(cfg.aug))
    models = [demo_model(cfg, model) for model in chosen]
    page = make_demo(models, augmentations, ladders, cfg.seed)
    serve(page, cfg.port, in_browser=sys.stdout.isatty())


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
