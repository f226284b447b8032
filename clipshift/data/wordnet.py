"""English names of ImageNet's classes, whose folders are named by WordNet ids or lemmas."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

IMAGENET_CLASSES = 1000
TOLD_BY_CASE = {"Cardigan": "Cardigan Welsh Corgi"}
"""ImageNet's one WordNet lemma that is another class's name in lower case: open_clip's name."""


def is_wordnet_id(label: str) -> bool:
    """Whether a label looks like the WordNet id of a noun, such as ``n01440764``."""
    return re.fullmatch(r"n\d{8}", label) is not None


def class_name(label: str) -> str:
    """The English name of a label that is a WordNet id; any other label unchanged.

    ImageNet-1k's classes have open_clip's names. The other 20,844 classes of ImageNet-21k, and the
    four classes whose name open_clip uses twice (missile, sunglasses), have timm's: WordNet's
    lemmas, with the definition where another class has the same lemmas. So names are unique.

    Args:
        label: A label. An id that is in neither list is returned unchanged.

    >>> class_name("n01440764"), class_name("n04008634"), class_name("my_tench")
    ('tench', 'projectile, missile', 'my_tench')
    """
    return _names().get(label, label) if is_wordnet_id(label) else label


def class_labels(names: Sequence[str]) -> list[str]:
    """The labels of classes that are identified by their index in a list of names.

    Of ImageNet's 1,000 classes, open_clip calls two "missile" and two "sunglasses", and WordNet
    calls two "crane": the index tells these apart. Labels are those of `class_name`.

    Args:
        names: Names in the order of the classes: open_clip's, WordNet's lemmas or ids, or others.

    >>> from open_clip import IMAGENET_CLASSNAMES
    >>> labels = class_labels(IMAGENET_CLASSNAMES)
    >>> IMAGENET_CLASSNAMES[744], labels[744], class_labels(["missile"])
    ('missile', 'projectile, missile', ['missile'])
    """
    if len(names) == IMAGENET_CLASSES:
        ids, *lists = _imagenet()
        if list(names) in lists:
            return [class_name(label) for label in ids]
    return [class_name(name) for name in names]


@lru_cache(maxsize=1)
def spoken_names() -> dict[str, str]:
    """open_clip's names of ImageNet's 1,000 classes by label, in the order of the classes.

    >>> spoken_names()["projectile, missile"]
    'missile'
    """
    _, names, _ = _imagenet()
    return dict(zip(class_labels(names), names, strict=True))


def is_imagenet(name: str) -> bool:
    """Whether a label or name belongs to one of ImageNet's 1,000 classes.

    >>> is_imagenet("tench"), is_imagenet("sunglasses"), is_imagenet("projectile, missile")
    (True, True, True)
    >>> is_imagenet("my tench")
    False
    """
    names = spoken_names()
    return name in names or name in set(names.values())


@lru_cache(maxsize=1)
def _imagenet() -> tuple[list[str], list[str], list[str]]:
    """Of ImageNet's 1,000 classes, in timm's order: ids, open_clip's names, WordNet's lemmas."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    ids = info.label_names()
    lemmas = [info.label_name_to_description(label) for label in ids]
    return ids, list(IMAGENET_CLASSNAMES), lemmas


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    from timm.data import ImageNetInfo

    full = ImageNetInfo("imagenet-21k-goog")
    ids, spoken, _ = _imagenet()
    names = dict(zip(ids, spoken, strict=True))
    uses = Counter(name.lower() for name in names.values())
    names = {label: name for label, name in names.items() if uses[name.lower()] == 1}
    others = {*ids, *full.label_names()} - names.keys()
    lemmas = {label: full.label_name_to_description(label) for label in others}
    uses = Counter(name.lower() for name in (*names.values(), *lemmas.values()))
    for label, name in lemmas.items():
        is_unique = uses[name.lower()] == 1
        names[label] = name if is_unique else full.label_name_to_description(label, detailed=True)
    return names


@lru_cache(maxsize=1)
def imagenet_names() -> list[list[str]]:
    """The names of each of ImageNet's 1,000 classes: open_clip's, then WordNet's other lemmas.

    >>> imagenet_names()[40]
    ['Carolina anole', 'American chameleon', 'anole', 'Anolis carolinensis']
    """
    return [
        [name, *(lemma for lemma in lemmas.split(", ") if lemma.casefold() != name.casefold())]
        for _, name, lemmas in zip(*_imagenet(), strict=True)
    ]


def imagenet_name(name: str) -> str | None:
    """open_clip's name of the ImageNet class that has a name as its label or WordNet lemma.

    Args:
        name: A name in words, upper or lower case.

    Returns:
        The name; None if no class or more than one matches.

    >>> imagenet_name("american chameleon"), imagenet_name("crane"), imagenet_name("my tench")
    ('Carolina anole', None, None)
    """
    return _synonyms().get(name.casefold())


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, str]:
    pairs = {(name.casefold(), names[0]) for names in imagenet_names() for name in names}
    uses = Counter(name for name, _ in pairs)
    labels = {label.casefold(): spoken for label, spoken in spoken_names().items()}
    return {name: spoken for name, spoken in pairs if uses[name] == 1} | labels
