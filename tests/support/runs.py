"""What ``run.json`` says of a run that no test has measured."""

from typing import Any

from clipshift.results.info import RunInfo

FACTS: dict[str, Any] = {
    "job": None,
    "model": {
        "name": "m", "architecture": "ViT-B-32", "pretrained": None, "checkpoint": None,
        "trained_on": None, "trained": True, "weights_sha256": "0" * 64, "fingerprint": "1" * 64,
        "preprocessing": {"size": 8, "mean": [0.0] * 3, "std": [1.0] * 3},
    },
    "precision": "fp32",
    "config": {
        "data": {"_target_": "clipshift.data.sample", "resize": "squash"},
        "aug": {"noise": {"std": 1}}, "metric": {}, "prompts": {}, "logger": {}, "seed": 0,
        "sweeps": "multirun", "dashboard": False,
    },
    "complete": True,
    "data": {"fingerprint": "f" * 64, "photos": 40, "skipped": 0},
    "seed": 0, "device": "cpu", "floor": {}, "seconds": {}, "started": "2026-01-01T00:00:00+00:00",
    "notes": [], "command": ["evaluate.py"], "commit": None, "python": "3.11", "system": "s",
    "processor": "p", "versions": {"clipshift": "0", "torch": "2.9"}, "code_sha256": "2" * 64,
    "spread": 0.5, "collapsed": False, "strengths": {"noise": 1.0}, "gallery": 10, "distortion": {},
    "intraclass_correlation": None,
}  # fmt: skip


def run_facts(**changes: Any) -> dict[str, Any]:
    """Return the content of a ``run.json``; ``model``, ``data`` and ``config`` are merged."""
    sections = {name: FACTS[name] | changes.get(name, {}) for name in ("model", "data", "config")}
    return FACTS | changes | sections


def run_info(**changes: Any) -> RunInfo:
    """Return the same, checked."""
    return RunInfo.model_validate(run_facts(**changes))
