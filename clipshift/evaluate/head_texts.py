r"""Heads in words (``dissect=true``): the texts of a vocabulary that span a head's shift.

The shift of head i is :math:`d_i = c_i'/\|e'\| - c_i/\|e\|`, the vector whose product with the
displacement is the head's of `clipshift.evaluate.dissect.component_products`. Texts are taken
relative to their mean, so that what sets all texts apart from images does not count.

Source: TextSpan, algorithm 1 of Gandelsman, Efros and Steinhardt, "Interpreting CLIP's image
representation via text-based decomposition", 2024 (arXiv:2310.05916). There it is the variance of
a head's outputs, along texts that are projected on these and keep their length. Here it is the
second moment of shifts, whose mean is of interest, along whole texts at unit length: so a share is
a part of the squared shift, whatever the lengths of texts.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from clipshift.encode.components import ComponentProbe
from clipshift.encode.texts import Vocabulary
from clipshift.evaluate.estimates import Row, estimate_table
from clipshift.results.table import PhotoSample
from clipshift.severities import ALL

SPANNED_PHOTOS = 100
"""The number of photos at random whose heads' shifts are kept."""
LEADING_HEADS = 10
"""How many heads are named at each severity, by their mean share over augmentations."""
RANKS = 5
"""How many texts name a head."""
NULL_DRAWS = 100
"""How many vocabularies are drawn for the null."""
SPANNED = 1e-9
"""A text has been spanned by others where less of its squared length is left."""


def decompose(
    shifts: np.ndarray, directions: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""Choose the directions that span most of some shifts, one after the other.

    .. math::
        t_s = \arg\max_t \frac{\sum_k (d_k \cdot r_t)^2}{\|r_t\|^2}, \quad
        r_t = t - \sum_{j < s} (t \cdot q_j) \, q_j, \quad q_s = r_{t_s} / \|r_{t_s}\|

    Args:
        shifts: K vectors of each of H samples, float64, shape (H, K, D).
        directions: Float64, shape (T, D).
        count: How many are chosen, at most the rank of the directions.

    Returns:
        The chosen ones, integers, shape (H, count); and the part :math:`\sum_k (d_k \cdot q_s)^2`
        that each adds, float64, shape (H, count).

    Example:
        >>> shifts = np.array([[[3.0, 0.0], [0.0, 1.0]]])
        >>> chosen, parts = decompose(shifts, np.array([[1.0, 0.0], [5.0, 5.0]]), 2)
        >>> chosen.tolist(), parts.tolist()
        ([[0, 1]], [[9.0, 1.0]])
    """
    every, squares = np.arange(len(shifts)), np.square(directions).sum(axis=1)
    along, left = shifts @ directions.T, np.tile(squares, (len(shifts), 1))
    chosen, parts = np.zeros((len(shifts), count), int), np.zeros((len(shifts), count))
    basis = np.zeros((len(shifts), count, directions.shape[1]))
    for step in range(count):
        is_left = left > SPANNED * squares
        explained = np.square(along).sum(axis=1)
        gains = np.divide(explained, left, out=np.full_like(left, -1), where=is_left)
        best = chosen[:, step] = gains.argmax(axis=1)
        parts[:, step] = gains[every, best]
        rest = directions[best]
        rest = rest - np.einsum("hsd,hse,he->hd", basis, basis, rest, optimize=True)
        basis[:, step] = unit = rest / np.linalg.norm(rest, axis=1, keepdims=True)
        onto = unit @ directions.T
        left -= onto**2
        along -= (shifts @ unit[:, :, None]) * onto[:, None]
    return chosen, parts


def named_by_texts(
    gathered: np.ndarray, head_map: np.ndarray, embeddings: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The texts that span a head's shift, under each of V variants and, last, all of them.

    In all of them each variant counts alike: a share is the mean of theirs. The null is the 0.95
    quantile over as many random mixtures of texts, which keep the covariance of the vocabulary: a
    head that shifts where all texts vary is not named by that alone.

    Args:
        gathered: The head's part of the shift of `ComponentProbe.gathered` for K photos, float64,
            shape (V, K, d).
        head_map: From `ComponentProbe.head_map`, float64, shape (d, D).
        embeddings: Of T texts, float64, shape (T, D).
        seed: Seed of the mixtures.

    Returns:
        The texts, integers, shape (V + 1, `RANKS`) or as many as their rank; what each adds to the
        share of the squared shift that is explained, and the null of the sum so far, likewise; and
        each photo's shift along the text's unit direction, shape (V + 1, `RANKS`, K).
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[scales > SPANNED * scales[0]]  # what is across them, texts do not explain
    directions, scales = centred @ axes.T, scales[: len(axes)]
    vectors, count = gathered @ head_map, min(RANKS, len(axes))
    squares = np.square(vectors).sum(axis=(1, 2)).clip(min=np.finfo(float).tiny)
    moments = gathered.swapaxes(1, 2) @ gathered / squares[:, None, None]
    values, sides = np.linalg.eigh([*moments, moments.mean(axis=0)])
    # few vectors, at most d, with the second moment of all
    factors = np.sqrt(values.clip(min=0))[..., None] * sides.swapaxes(1, 2) @ head_map @ axes.T
    chosen, shares = decompose(factors, directions, count)
    drawn = np.random.default_rng(seed)
    mixtures = (drawn.normal(size=directions.shape) * scales for _ in range(NULL_DRAWS))
    sums = [decompose(factors, mixture, count)[1].cumsum(axis=1) for mixture in mixtures]
    along = np.array([*vectors, vectors.mean(axis=0)]) @ axes.T
    lengths = np.linalg.norm(directions, axis=1)[chosen]
    changes = directions[chosen] @ along.swapaxes(1, 2) / lengths[:, :, None]
    return chosen, shares, np.quantile(sums, 0.95, axis=0), changes


@torch.inference_mode()
def head_text_table(
    sample: PhotoSample, vocabulary: Vocabulary, probe: ComponentProbe, components: pd.DataFrame
) -> pd.DataFrame:
    """The texts that name the leading heads: a row per variant, head and rank.

    Args:
        sample: What was measured.
        vocabulary: The texts.
        probe: The encoder's.
        components: From `clipshift.evaluate.dissect.component_table`.
    """
    listed, by_view = sample.measured.index[sample.order], sample.measured.gathered
    finite = [{n for n, of in kept.items() if np.isfinite(of).all()} for kept in by_view.values()]
    is_kept = np.isin(listed, list(set.intersection(*finite) if finite else ()))
    components = components.dropna(subset="share")
    moved = set(components.groupby(["severity", "augmentation"]).groups)
    heads = components[(components["augmentation"] == ALL) & (components["component"] == "head")]
    ordered = heads.sort_values("share", ascending=False, kind="stable")
    leading = ordered.groupby("severity", sort=False).head(LEADING_HEADS if is_kept.any() else 0)
    rows, every = [], is_kept[is_kept]
    for of in leading.astype({"layer": int, "head": int}).itertuples():
        of_severity = {k: v for k, v in sample.variants.items() if v.severity == of.severity}
        names = {k: v.name for k, v in of_severity.items() if (v.severity, v.name) in moved}
        head_map = probe.head_map(of.layer - 1, of.head - 1).cpu().numpy()
        part = of.layer - 1, slice((of.head - 1) * len(head_map), of.head * len(head_map))
        gathered = [[by_view[view][n][part] for n in listed[is_kept]] for view in names]
        named = np.array(gathered, float), head_map, vocabulary.embeddings, sample.seed
        chosen, shares, null, changes = named_by_texts(*named)
        sums = shares.cumsum(axis=1)
        for place in np.ndindex(chosen.shape):
            text = of.layer, of.head, place[1] + 1, vocabulary.texts[int(chosen[place])]
            numbers = shares[place], sums[place], null[place], changes[place].mean()
            name = [*names.values(), ALL][place[0]]
            cells = name, of.severity, *text, *numbers, len(every)
            rows.append(Row(cells, every, changes[place]))
    kept = replace(sample, groups=sample.groups_of(listed[is_kept]))
    return estimate_table("head_texts", rows, kept)
