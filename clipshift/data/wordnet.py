"""English names of ImageNet's classes, whose folders are called by WordNet ids or lemmas."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


def is_wordnet_id(label: str) -> bool:
    """Whether a label looks like the WordNet id of a noun, such as ``n01440764``."""
    return re.fullmatch(r"n\d{8}", label) is not None


def class_name(label: str) -> str:
    """The English name of a label that is a WordNet id; any other label as it is.

    ImageNet-1k's classes have open_clip's names. The other 20,844 classes of ImageNet-21k, and the
    four whose name open_clip gives to two (missile, sunglasses), have timm's: WordNet's lemmas,
    with its definition where another class has the same. So no two ids have one name.

    Args:
        label: A label. An id that is in neither list stays as it is.

    >>> class_name("n01440764"), class_name("n04008634"), class_name("my_tench")
    ('tench', 'projectile, missile', 'my_tench')
    """
    return _names().get(label, label) if is_wordnet_id(label) else label


def class_labels(names: Sequence[str]) -> list[str]:
    """The labels of classes that are told apart by their index in a list of names.

    A list of ImageNet's 1,000 has two classes that open_clip calls "missile", two "sunglasses" and
    two that WordNet calls "crane": there the index decides. All labels are as of `class_name`.

    Args:
        names: In the order of the classes: open_clip's names, WordNet's lemmas or ids, or others.

    >>> from open_clip import IMAGENET_CLASSNAMES
    >>> labels = class_labels(IMAGENET_CLASSNAMES)
    >>> IMAGENET_CLASSNAMES[744], labels[744], class_labels(["missile"])
    ('missile', 'projectile, missile', ['missile'])
    """
    from open_clip import IMAGENET_CLASSNAMES

    ids, lemmas = _imagenet()
    if list(names) in (list(IMAGENET_CLASSNAMES), lemmas):
        return [class_name(label) for label in ids]
    return [class_name(name) for name in names]


@lru_cache(maxsize=1)
def spoken_names() -> dict[str, str]:
    """What open_clip calls ImageNet's 1,000 classes, by their labels, in the order of the classes.

    >>> spoken_names()["projectile, missile"]
    'missile'
    """
    from open_clip import IMAGENET_CLASSNAMES

    return dict(zip(class_labels(IMAGENET_CLASSNAMES), IMAGENET_CLASSNAMES, strict=True))


def is_imagenet(name: str) -> bool:
    """Whether a label or name is that of one of ImageNet's 1,000 classes.

    >>> is_imagenet("tench"), is_imagenet("sunglasses"), is_imagenet("projectile, missile")
    (True, True, True)
    >>> is_imagenet("my tench")
    False
    """
    names = spoken_names()
    return name in names or name in set(names.values())


@lru_cache(maxsize=1)
def _imagenet() -> tuple[list[str], list[str]]:
    """The ids of ImageNet's 1,000 classes, and WordNet's lemmas for each."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    ids = info.label_names()
    return ids, [info.label_name_to_description(label) for label in ids]


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    imagenet, full = ImageNetInfo("imagenet-1k"), ImageNetInfo("imagenet-21k-goog")
    # open_clip's list is in the order of the classes, which timm's gives as ids
    names = dict(zip(imagenet.label_names(), IMAGENET_CLASSNAMES, strict=True))
    uses = Counter(name.lower() for name in names.values())
    names = {label: name for label, name in names.items() if uses[name.lower()] == 1}
    others = {*imagenet.label_names(), *full.label_names()} - names.keys()
    lemmas = {label: full.label_name_to_description(label) for label in others}
    uses = Counter(name.lower() for name in (*names.values(), *lemmas.values()))
    for label, name in lemmas.items():
        alone = uses[name.lower()] == 1
        names[label] = name if alone else full.label_name_to_description(label, detailed=True)
    return names


@lru_cache(maxsize=1)
def imagenet_names() -> list[list[str]]:
    """The names of each of ImageNet's 1,000 classes: open_clip's, then WordNet's other lemmas.

    >>> imagenet_names()[40]
    ['Carolina anole', 'American chameleon', 'anole', 'Anolis carolinensis']
    """
    from open_clip import IMAGENET_CLASSNAMES

    return [
        [name, *(lemma for lemma in own.split(", ") if lemma.casefold() != name.casefold())]
        for name, own in zip(IMAGENET_CLASSNAMES, _imagenet()[1], strict=True)
    ]


def imagenet_name(name: str) -> str | None:
    """open_clip's name of the ImageNet class with this label, or with it among WordNet's lemmas.

    Args:
        name: In words, in any case.

    Returns:
        None where no class has it, or several have.

    >>> imagenet_name("american chameleon"), imagenet_name("crane"), imagenet_name("my tench")
    ('Carolina anole', None, None)
    """
    return _synonyms().get(name.casefold())


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, str]:
    named = {(name.casefold(), own[0]) for own in imagenet_names() for name in own}
    uses = Counter(name for name, _ in named)
    labels = {label.casefold(): theirs for label, theirs in spoken_names().items()}
    return {name: theirs for name, theirs in named if uses[name] == 1} | labels
