"""Zero-shot classification: is a photo's own label among the best-matching texts?"""

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
    after, before = (c > c.amax(dim=1, keepdim=True) - TIE for c in cosines)
    kept = (after & before).sum(dim=1) / (after | before).sum(dim=1)
    is_finite = cosines[0].isfinite().all(dim=1) & cosines[1].isfinite().all(dim=1)
    return (1 - kept).where(is_finite, torch.nan).float()


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
