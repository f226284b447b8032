"""Zero-shot classification: is a photo's own label among the best-matching texts?"""

import torch
from torch import Tensor


def zero_shot_hit(embedding: Tensor, classifier: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether the target is among the k classes of the highest cosine.

    Source: Radford et al., "Learning transferable visual models from natural language
    supervision", 2021 (arXiv 2103.00020), section 3.1.

    Args:
        embedding: Of B views, shape (B, D).
        classifier: A unit vector a class, shape (D, C).
        target: Class indices, int64, shape (B,); −1 where there is no label.
        k: How many classes count.

    Returns:
        1 for a hit and 0 for a miss, NaN where there is no label or the embedding has no direction
        (zero, or not finite); float32, shape (B,).

    Example:
        >>> classifier = torch.eye(3)
        >>> embedding = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
        >>> zero_shot_hit(embedding, classifier, torch.tensor([0, 1, -1]), k=1)
        tensor([1., 0., nan])
    """
    scores = embedding.double() @ classifier.double()
    own = scores.gather(1, target.clamp(min=0)[:, None])
    hit = (scores > own).sum(dim=1) < k
    known = (target >= 0) & own[:, 0].isfinite() & embedding.any(dim=1)
    return torch.where(known, hit.float(), torch.nan)


def zero_shot_flip(view: Tensor, clean: Tensor, classifier: Tensor) -> Tensor:
    """Whether the first choice among the classes changes from the clean view to the view.

    Args:
        view: Embeddings of B views, shape (B, D).
        clean: Embeddings of their clean views, shape (B, D).
        classifier: A unit vector a class, shape (D, C).

    Returns:
        1 where it changes and 0 where it stays; float32, shape (B,).

    Example:
        >>> zero_shot_flip(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.eye(2))
        tensor([1.])
    """
    after, before = ((e.double() @ classifier.double()).argmax(dim=1) for e in (view, clean))
    return (after != before).float()
