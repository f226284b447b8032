"""Losses of fine-tuning: where the embeddings of augmented views should be."""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


class Objective(Protocol):
    """A loss of the student's embeddings, against the frozen base model.

    Attributes:
        needs_texts: Whether photos must have a class or captions.
    """

    needs_texts: bool

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        """The mean loss over a batch.

        Args:
            view: The student's embeddings of views, before normalisation, (B, D).
            clean: The frozen base's embeddings of the clean views, (B, D).
            texts: The base's embeddings of texts (class prompts or captions), a unit vector a
                column, (D, T), times the base's logit scale.
            target: Which text belongs to each photo, (B,), int64; −1 where none does.

        Returns:
            A scalar.
        """
        ...


class Consistency:
    r"""The view's embedding is pulled to where the frozen base had the clean one; no texts.

    .. math:: \|f(x') - f_0(x)\|_2^2 \quad\text{or}\quad 1 - \cos(f(x'), f_0(x))

    Source: Schlarmann et al., "Robust CLIP" (FARE), 2024, arXiv:2402.12336, eq. 4, with our
    augmentations in the place of its adversary.

    Args:
        distance: ``l2``, squared and unnormalised as in FARE, or ``cosine``.
    """

    needs_texts = False

    def __init__(self, distance: Literal["l2", "cosine"]) -> None:
        self.distance = distance

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        if self.distance == "l2":
            return (view - clean).square().sum(dim=1).mean()
        return (1 - torch.cosine_similarity(view, clean, dim=1)).mean()


class Contrastive:
    r"""CLIP's loss of views and their own texts, whose other pairs in the batch are the negatives.

    With the logits :math:`z_{ij} = s\,\hat f(x'_i) \cdot t_j` of photo i and the text of photo j,
    and :math:`P_i` the photos with the same text as i (itself among them):

    .. math::
        \frac{1}{2B} \sum_i \frac{1}{|P_i|} \sum_{j \in P_i} \Big(
            -\log \frac{e^{z_{ij}}}{\sum_k e^{z_{ik}}} - \log \frac{e^{z_{ji}}}{\sum_k e^{z_{ki}}}
        \Big)

    Source: Radford et al., "Learning transferable visual models from natural language supervision"
    (CLIP), 2021, arXiv:2103.00020, fig. 3; as an objective of fine-tuning, with class prompts for
    texts: Goyal et al., "Finetune like you pretrain" (FLYP), 2023, arXiv:2212.00638, eq. 3. Photos
    of one class share their text, and count as each other's positives: Yang et al., "Unified
    contrastive learning" (UniCL), 2022, arXiv:2204.03610, eq. 2 and 3. Photos without a text are
    left out. The loss is of the whole batch, over all devices.
    """

    needs_texts = True

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        has_text = target >= 0
        target = target[has_text]
        if not len(target):
            return view.sum() * 0
        logits = normalize(view[has_text], dim=1) @ texts[:, target]
        same = (target[:, None] == target).to(logits.dtype)
        positives = same / same.sum(dim=1, keepdim=True)
        return (cross_entropy(logits, positives) + cross_entropy(logits.T, positives)) / 2


class TeCoA:
    """Cross-entropy of the view against the frozen text classifier.

    Source: Mao et al., "Understanding zero-shot adversarial robustness for large-scale models"
    (TeCoA), 2023, arXiv:2212.07016, eq. 3, with our augmentations in the place of its adversary.
    """

    needs_texts = True

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        if not (target >= 0).any():
            return view.sum() * 0
        return cross_entropy(normalize(view, dim=1) @ texts, target, ignore_index=-1)


class ConsistencyTeCoA:
    r"""Both at once: consistency plus :math:`w` times TeCoA's cross-entropy.

    The first keeps embeddings where the base had them, the second keeps classes apart; a photo
    without a class only counts in the first.

    Args:
        distance: That of `Consistency`.
        weight: :math:`w`.
    """

    needs_texts = True

    def __init__(self, distance: Literal["l2", "cosine"], weight: float) -> None:
        self.consistency, self.tecoa, self.weight = Consistency(distance), TeCoA(), weight

    def __call__(self, view: Tensor, clean: Tensor, texts: Tensor, target: Tensor) -> Tensor:
        of_class = self.tecoa(view, clean, texts, target)
        return self.consistency(view, clean, texts, target) + self.weight * of_class
