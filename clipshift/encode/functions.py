"""Models that are functions: files of ONNX, programs of ``torch.export``, and plain functions.

They run on the CPU, but for a plain function, which chooses itself. Nothing is read inside them.
"""

import glob
import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipshift.encode.encoder import Encoder, weights_sha256
from clipshift.encode.kinds import chosen_pooling
from clipshift.encode.modules import check_output, wrap_image_model
from clipshift.errors import UserError, failures_of
from clipshift.options import PreprocessingOptions

DECLARED = [option.name for option in fields(PreprocessingOptions)]
"""Keys of the preprocessing that a file of ONNX does not say."""
AS_THEY_ARE = {"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}
"""The preprocessing of a plain function, by default: it is given views in [0, 1]."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def load(
    checkpoint: str,
    precision: str,
    seed: int,
    pooling: str | None = None,
    preprocessing: dict[str, Any] | None = None,
) -> Encoder:
    """Load a file of ONNX.

    Args:
        checkpoint: The file, with its weights or beside them.
        precision: ``fp32``: what is computed in which precision is fixed in the file.
        seed: Without effect: the weights are in the file.
        pooling: The name of the output that is the embedding; necessary where there are several.
        preprocessing: The keys `DECLARED`. What is missing is taken from a JSON file of the same
            name, as ``MODEL.json``, beside ``MODEL.onnx``.

    Raises:
        UserError: If the file cannot be loaded or run, or its preprocessing is not declared.
    """
    import onnxruntime

    file = Path(checkpoint)
    if file.suffix != ".onnx" or not file.is_file():
        raise UserError(
            f"{file} is not a file of ONNX (.onnx); a program of torch.export is pickled code: "
            "load it yourself, by torch.export.load, and pass it as a model"
        )
    if precision != "fp32":
        raise UserError(f"precision={precision}: that of a file of ONNX is fixed: set fp32")
    beside = file.with_suffix(".json")
    declared = json.loads(beside.read_text()) if beside.is_file() else {}
    declared |= {name: one for name, one in (preprocessing or {}).items() if one is not None}
    if missing := [name for name in DECLARED if name not in declared]:
        missing = [f"model.preprocessing.{name}" for name in missing]
        raise UserError(f"the preprocessing of {file} is not declared: set {', '.join(missing)}")
    with failures_of(str(file)):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        encoder = wrap(session, declared, None, True, pooling)
        check_output(encoder, str(file))
    return encoder


def wrap(model: Any, preprocess: Any, tokenizer: Any, trained: bool, pooling: Any) -> Encoder:
    """An encoder of an object in memory: see `clipshift.encode.modules.as_encoder`."""
    if hasattr(model, "get_inputs"):
        session = Session(model, pooling)
        facts = {"pooling": session.output, "sha256": session.sha256}
        return wrap_image_model(session, preprocess, tokenizer, trained, **facts)
    facts = {"pooling": chosen_pooling(pooling, ["own"])}
    if isinstance(model, torch.export.ExportedProgram):
        module = model.module()

        def model(pixels: Tensor) -> Tensor:
            return module(pixels.cpu()).to(pixels.device)

        facts["sha256"] = weights_sha256(module)
    else:
        preprocess = AS_THEY_ARE | (preprocess or {})
    return wrap_image_model(model, preprocess, tokenizer, trained, **facts)


class Session:
    """The function from pixels to embeddings that a session of onnxruntime computes.

    Args:
        session: The session; its one input is a batch of pixels, (B, 3, H, W).
        pooling: The name of the output that is the embedding; None for the only one.

    Raises:
        UserError: If it has other inputs, or not this output.
    """

    def __init__(self, session: Any, pooling: str | None) -> None:
        self.session = session
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            listed = ", ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
            raise UserError(f"the inputs must be one batch of pixels, (B, 3, H, W), not {listed}")
        [self.input] = inputs
        names = [one.name for one in session.get_outputs()]
        if pooling is None and len(names) > 1:
            raise UserError(f"set pooling to the output that is the embedding: {', '.join(names)}")
        self.output = chosen_pooling(pooling, names)
        digest = hashlib.sha256(session._model_bytes or b"")
        if session._model_path:  # its weights may be beside it, as in MODEL.onnx.data
            file = Path(session._model_path)
            for part in sorted(file.parent.glob(f"{glob.escape(file.name)}*")):
                digest.update(part.read_bytes())
        self.sha256 = digest.hexdigest()

    def __call__(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        batch = self.input.shape[0] if isinstance(self.input.shape[0], int) else count
        array = pixels.cpu().numpy().astype(TYPES[self.input.type])
        array = np.concatenate([array, array[:1].repeat(-count % batch, axis=0)])
        parts = [array[start : start + batch] for start in range(0, len(array), batch)]
        rows = [self.session.run([self.output], {self.input.name: part})[0] for part in parts]
        return torch.from_numpy(np.concatenate(rows)[:count]).to(pixels.device)
