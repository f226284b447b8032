"""What a fine-tune wants of the embeddings of augmented views."""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class Objective(Protocol):
    """A loss of augmented views' embeddings, against the frozen base model."""

    def __call__(self, view: Tensor, clean: Tensor, classifier: Tensor, target: Tensor) -> Tensor:
        """The mean loss over a batch.

        Args:
            view: The student's embeddings of augmented views, before normalisation, (B, D).
            clean: The frozen base's embeddings of the clean views, (B, D).
            classifier: The base's zero-shot classifier, a unit vector a class, (D, C), times the
                base's logit scale.
            target: Classes, (B,), int64; −1 where there is none.

        Returns:
            A scalar.
        """
        ...


class Consistency:
    r"""The view's embedding is pulled to where the frozen base had the clean one; no labels.

    .. math:: \|f(x') - f_0(x)\|_2^2 \quad\text{or}\quad 1 - \cos(f(x'), f_0(x))

    Source: Schlarmann et al., "Robust CLIP" (FARE), 2024, arXiv:2402.12336, eq. 4, with our
    augmentations in the place of its adversary.

    Args:
        distance: ``l2``, squared and unnormalised as in FARE, or ``cosine``.
    """

    def __init__(self, distance: Literal["l2", "cosine"]) -> None:
        self.distance = distance

    def __call__(self, view: Tensor, clean: Tensor, classifier: Tensor, target: Tensor) -> Tensor:
        if self.distance == "l2":
            return (view - clean).square().sum(dim=1).mean()
        return (1 - torch.cosine_similarity(view, clean, dim=1)).mean()


class TeCoA:
    """Cross-entropy of the view against the frozen text classifier.

    Source: Mao et al., "Understanding zero-shot adversarial robustness for large-scale models"
    (TeCoA), 2023, arXiv:2212.07016, eq. 3, with our augmentations in the place of its adversary.
    """

    def __call__(self, view: Tensor, clean: Tensor, classifier: Tensor, target: Tensor) -> Tensor:
        logits = torch.nn.functional.normalize(view, dim=1) @ classifier
        return cross_entropy(logits, target, ignore_index=-1)
