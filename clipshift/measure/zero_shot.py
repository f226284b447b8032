"""Zero-shot classification: is a photo's own label among the best-matching texts?"""

import torch
from torch import Tensor

from clipshift.measure.functional import TIE, unit


def zero_shot_hit(embedding: Tensor, classifier: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether the target is among the k classes of the highest cosine.

    Classes at the target's own cosine count against it by chance: with b classes above and m at it,
    the target among them, it is among the first k with a probability of (k − b) / m, at least 0 and
    at most 1.

    Source: Radford et al., "Learning transferable visual models from natural language
    supervision", 2021 (arXiv 2103.00020), section 3.1.

    Args:
        embedding: Of B views, shape (B, D).
        classifier: A unit vector a class, shape (D, C).
        target: Class indices, int64, shape (B,); −1 where there is no label.
        k: How many classes count.

    Returns:
        1 for a hit and 0 for a miss, between them for ties; NaN where there is no label or the
        embedding has no direction (zero, or not finite). float32, shape (B,).

    Example:
        >>> classifier = torch.eye(3)
        >>> embedding = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
        >>> zero_shot_hit(embedding, classifier, torch.tensor([0, 1, -1]), k=1)
        tensor([1., 0., nan])
    """
    cosines = unit(embedding) @ classifier.double()
    own = cosines.gather(1, target.clamp(min=0)[:, None])
    above = (cosines >= own + TIE).sum(dim=1)
    level = ((cosines - own).abs() < TIE).sum(dim=1)
    hit = ((k - above) / level).clamp(0, 1)
    return hit.where((target >= 0) & own[:, 0].isfinite(), torch.nan).float()


def zero_shot_flip(view: Tensor, clean: Tensor, classifier: Tensor) -> Tensor:
    """Whether the first choice among the classes changes from the clean view to the view.

    Where several classes share the highest cosine, any of them is the first choice, by the same
    order of preference in view and clean view: the choice changes with a probability of
    1 − |A ∩ B| / |A ∪ B|, A and B being the classes that share it in the one and the other.

    Args:
        view: Embeddings of B views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).
        classifier: A unit vector a class, shape (D, C).

    Returns:
        1 where it changes and 0 where it stays, between them for ties; NaN where an embedding has
        no direction. float32, shape (B,).

    Example:
        >>> zero_shot_flip(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.eye(2))
        tensor([1.])
    """
    cosines = [unit(embedding) @ classifier.double() for embedding in (view, clean)]
    after, before = (c > c.amax(dim=1, keepdim=True) - TIE for c in cosines)
    kept = (after & before).sum(dim=1) / (after | before).sum(dim=1)
    known = cosines[0].isfinite().all(dim=1) & cosines[1].isfinite().all(dim=1)
    return (1 - kept).where(known, torch.nan).float()


def nearest_classes(embedding: Tensor, classifier: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The classes of the highest cosine; of classes that tie, the first in their order.

    Args:
        embedding: Embeddings of B views, shape (B, D).
        classifier: A unit vector a class, shape (D, C).
        k: How many, at most C.

    Returns:
        Their indices and cosines, the highest first, each float64, shape (B, min(k, C)).

    Example:
        >>> nearest_classes(torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(3), k=2)
        (tensor([[1., 0.]], dtype=torch.float64), tensor([[0.8000, 0.6000]], dtype=torch.float64))
    """
    cosines = (unit(embedding) @ classifier.double()).nan_to_num(-1)
    order = cosines.sort(dim=1, descending=True, stable=True)
    return order.indices[:, :k].double(), order.values[:, :k]
