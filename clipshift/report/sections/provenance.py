"""Where a run's numbers come from, and how to cite them."""

import shlex
from collections.abc import Mapping
from typing import Any

from clipshift.report import words
from clipshift.results.runs import Run


def provenance(run: Run) -> dict[str, Any]:
    """What a reader must know to repeat the run, by name."""
    info = run.info
    model, data = info.model, info.data
    stored = data.stored_fingerprint
    return {
        "model": f"{model.name}: {model.architecture}, {words.weights_in_words(model)}",
        "weights (SHA-256)": model.weights_sha256,
        "embedding": words.embedding_in_words(model),
        "gaze": words.gaze_in_words(model.gaze) if model.gaze else "none",
        "photos": f"{data.photos} measured, {data.skipped} skipped",
        "gallery of retained": words.counted(info.gallery, "photo"),
        "intervals over": words.resampled(info),
        "data (SHA-256)": data.fingerprint,
        **({"stored corruptions (SHA-256)": stored} if stored else {}),
        "strengths": _listed(info.strengths, ".4g"),
        "seed": info.seed,
        "precision, device": f"{info.precision}, {info.device}",
        "command": shlex.join(info.command),
        "started": info.started,
        "commit": info.commit or "none",
        "machine": f"{info.processor}, {info.system}",
        "seconds": _listed(info.seconds, ".1f"),
        "versions": _listed({"python": info.python, **info.versions}),
    }


def _listed(values: Mapping[str, Any], form: str = "") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def citation(run: Run) -> str:
    """A BibTeX entry of the software that made the run."""
    info = run.info
    commit = f", commit {info.commit.removesuffix('+changes')[:12]}" if info.commit else ""
    fields = {
        "author": "{The clipshift founders}",
        "title": "clipshift: measure how CLIP embeddings shift when images are perturbed",
        "version": info.versions["clipshift"] + commit,
        "year": info.started[:4],
    }
    return f"@software{{clipshift, {', '.join(f'{k} = {{{v}}}' for k, v in fields.items())}}}"


def methods(run: Run) -> str:
    """A sentence on the run for a paper's methods section."""
    info = run.info
    model, data = info.model, info.data
    severities = ", ".join(run.summary["severity"].unique())
    return (
        f"The shift of image embeddings was measured with clipshift {info.versions['clipshift']} "
        f"for {model.architecture} ({words.weights_in_words(model)}, SHA-256 "
        f"{model.weights_sha256[:12]}) on {words.counted(data.photos, 'photograph')} (SHA-256 "
        f"{data.fingerprint[:12]}) under "
        f"{words.counted(run.summary['augmentation'].nunique(), 'augmentation')} (severity "
        f"{severities}; seed {info.seed}, {info.precision}); intervals are 95 % intervals "
        f"over {words.resampled(info)}, by bootstrap-t or, of shares, Wilson’s."
    )
