"""Zero-shot classification: is a photo's own label among the best-matching texts?"""

import numpy as np
import torch
from torch import Tensor

from clipshift.measure.functional import TIE, unit


def zero_shot_hit(embedding: Tensor, classifier: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether the target is among the k classes of the highest cosine.

    Ties are broken by chance: if b classes have a higher cosine than the target and m have the same
    (the target included), the target is among the first k with probability (k − b) / m, clipped to
    [0, 1].

    Source: Radford et al., "Learning transferable visual models from natural language
    supervision", 2021 (arXiv 2103.00020), section 3.1.

    Args:
        embedding: Of B views, shape (B, D).
        classifier: A unit vector for each class, shape (D, C).
        target: Class indices, int64, shape (B,); −1 where there is no label.
        k: Number of classes that count as a hit.

    Returns:
        1 for a hit, 0 for a miss, in between for ties; NaN where there is no label or the
        embedding has no direction (zero, or not finite). float32, shape (B,).

    Example:
        >>> classifier = torch.eye(3)
        >>> embedding = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
        >>> zero_shot_hit(embedding, classifier, torch.tensor([0, 1, -1]), k=1)
        tensor([1., 0., nan])
    """
    cosines = unit(embedding) @ classifier.double()
    target_cosine = cosines.gather(1, target.clamp(min=0)[:, None])
    higher = (cosines >= target_cosine + TIE).sum(dim=1)
    equal = ((cosines - target_cosine).abs() < TIE).sum(dim=1)
    hit = ((k - higher) / equal).clamp(0, 1)
    return hit.where((target >= 0) & target_cosine[:, 0].isfinite(), torch.nan).float()


def zero_shot_flip(view: Tensor, clean: Tensor, classifier: Tensor) -> Tensor:
    """Whether the predicted class differs between the view and its clean view.

    Where several classes share the highest cosine, one of them is predicted at random, in the same
    order of preference for both views: the prediction changes with probability
    1 − |A ∩ B| / |A ∪ B|, where A and B are the sets of classes that share the highest cosine.

    Args:
        view: Embeddings of B views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).
        classifier: A unit vector for each class, shape (D, C).

    Returns:
        1 where it changes, 0 where it stays, in between for ties; NaN where an embedding has no
        direction. float32, shape (B,).

    Example:
        >>> zero_shot_flip(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.eye(2))
        tensor([1.])
    """
    cosines = [unit(embedding) @ classifier.double() for embedding in (view, clean)]
    return changed_class(*cosines)


def changed_class(view: Tensor, clean: Tensor) -> Tensor:
    """`zero_shot_flip` of cosines with classes: (B, C) and (B, C) → (B,)."""
    after, before = (c > c.amax(dim=1, keepdim=True) - TIE for c in (view, clean))
    kept = (after & before).sum(dim=1) / (after | before).sum(dim=1)
    is_finite = view.isfinite().all(dim=1) & clean.isfinite().all(dim=1)
    return (1 - kept).where(is_finite, torch.nan).float()


def class_margin(view: Tensor, clean: Tensor) -> Tensor:
    r"""How far the class predicted on the clean view leads all others on a view.

    .. math::
        \max_{c \in A} \cos_c - \max_{c \notin A} \cos_c

    with the classes A that share the highest cosine with the clean view, mostly one. It is positive
    on the clean view, and negative where the prediction changes.

    Args:
        view: Cosines of B views with C classes, float64, shape (B, C).
        clean: Those of their clean views.

    Returns:
        In [−2, 2], shape (B,); NaN where an embedding has no direction, or all classes tie.

    Example:
        >>> view, clean = torch.tensor([[[0.2, 0.3, 0.0]], [[0.5, 0.1, 0.0]]]).double()
        >>> class_margin(view, clean)
        tensor([-0.1000], dtype=torch.float64)
    """
    leading = clean > clean.amax(dim=1, keepdim=True) - TIE
    own, others = (view.where(of, -torch.inf).amax(dim=1) for of in (leading, ~leading))
    margin = own - others
    return margin.where(margin.isfinite(), torch.nan)


def predicted_flips(margin: np.ndarray, change: np.ndarray) -> np.ndarray:
    r"""How many predictions would change if each margin changed by as much as another photo's.

    .. math::
        \frac{1}{N (N - 1)} \sum_{i \neq j} [m_i + \delta_j < 0]

    with ties counting half: what the clean margins and the distribution of their changes predict,
    of a photo by other photos alone. It is right where changes do not depend on margins.

    Args:
        margin: Of N clean views, N ≥ 2.
        change: What each view's margin differs from it by.

    Returns:
        Of each photo the mean over the pairs that it is in, whose mean is the share, shape (N,).

    Example:
        >>> predicted_flips(np.array([0.1, 0.3, 0.5]), np.array([-0.2, -0.4, 0.0]))
        array([0.25, 0.25, 0.  ])
    """
    itself = (margin + change < -TIE) + 0.5 * (np.abs(margin + change) <= TIE)
    by_others = _below(np.sort(change), -margin)
    of_others = len(margin) - _below(np.sort(-margin), change)
    return (by_others + of_others - 2 * itself) / (len(margin) - 1) / 2


def _below(ordered: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How many of some ascending numbers are below each limit, those equal to it counting half."""
    return np.mean([np.searchsorted(ordered, limits + tie) for tie in (-TIE, TIE)], axis=0)


def confidence(embedding: Tensor, classifier: Tensor, scale: float) -> Tensor:
    r"""The largest probability of a class, :math:`\max_c \operatorname{softmax}(s \cos_c)`.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", 2017 (arXiv 1610.02136).

    Args:
        embedding: Of B views, shape (B, D).
        classifier: A unit vector for each class, shape (D, C).
        scale: The model's own factor on cosines, s.

    Returns:
        In [1 / C, 1]; NaN where the embedding has no direction. float32, shape (B,).

    Example:
        >>> confidence(torch.tensor([[5.0, 0.0]]), torch.eye(2), scale=2.0)
        tensor([0.8808])
    """
    cosines = unit(embedding) @ classifier.double()
    return (scale * cosines).softmax(dim=1).amax(dim=1).float()


def nearest_classes(embedding: Tensor, classifier: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The classes with the highest cosine; ties are broken by the order of the classes.

    Args:
        embedding: Embeddings of B views, shape (B, D).
        classifier: A unit vector for each class, shape (D, C).
        k: Number of classes, at most C.

    Returns:
        Their indices and cosines, the highest first, each float64, shape (B, min(k, C)).

    Example:
        >>> nearest_classes(torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(3), k=2)
        (tensor([[1., 0.]], dtype=torch.float64), tensor([[0.8000, 0.6000]], dtype=torch.float64))
    """
    cosines = (unit(embedding) @ classifier.double()).nan_to_num(-1)
    order = cosines.sort(dim=1, descending=True, stable=True)
    return order.indices[:, :k].double(), order.values[:, :k]
