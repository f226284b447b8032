"""Photos in data sets of Hugging Face's `datasets`: parquet and arrow files, or on the hub."""

import atexit
import errno
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipshift.data.classes import read_lines
from clipshift.data.photos import Photo, WholePhoto, photo_id
from clipshift.data.wordnet import class_labels, class_name
from clipshift.errors import UserError, did_you_mean, one_line, printable

LABELS = ("label", "labels", "cls")
CAPTIONS = ("caption", "captions", "text", "texts", "sentences")
NO_IMAGE = "the row holds no bytes of an image"


@dataclass(frozen=True)
class RowPhoto(WholePhoto):
    """A photo in a row of a data set in memory-mapped files.

    Args:
        images: The data set's column of images, not decoded.
        row: The row's index.
    """

    images: Any = field(default=None, compare=False, repr=False)
    row: int = 0

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            OSError: If the row holds no image, but only the name of a file, say.
        """
        (stored,) = self.images[self.row].values()
        if not stored or stored["bytes"] is None:
            raise OSError(errno.EINVAL, NO_IMAGE)
        return bytes(stored["bytes"])


def huggingface(
    dataset: str,
    name: str | None = None,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
    classnames: str | None = None,
    rows: int | None = None,
) -> list[Photo]:
    """The photos of a data set that the package `datasets` reads. Requires the extra ``hf``.

    No code of a data set is ever run: `datasets` 4 and later has no loading scripts.

    Args:
        dataset: A folder of parquet or arrow files, or one that ``save_to_disk`` wrote; or the name
            of a data set on the hub.
        name: Its configuration, if it has several.
        split: Its split; by default ``test``, or the only one.
        image: The column of the photos; by default the only one with images.
        label: The column of the classes; by default the only ``ClassLabel``, or ``label``.
        caption: The column of the captions, texts or lists of texts; by default ``caption``,
            ``text``, ….
        classnames: A file of class names for labels that are bare numbers: line by line from 0.
        rows: Number of leading rows to read. They are streamed: nothing else is downloaded from the
            hub, and the photos are written to a temporary file, so that memory use does not grow.

    Returns:
        The photos in the order of the rows; the id is ``SPLIT/ROW``, rows from 0. Rows without an
        image are left out (`Photo.left_out`).

    Raises:
        UserError: If `datasets` is not installed, the data set is damaged, or there is no such data
            set, split or column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data=huggingface requires: pip install 'clipshift[hf]'") from None
    folder = Path(str(dataset)).expanduser()
    # the files that save_to_disk writes
    is_saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        if is_saved:
            loaded = datasets.load_from_disk(str(folder))
        else:
            source = str(folder if folder.is_dir() else dataset)
            loaded = datasets.load_dataset(source, name, streaming=rows is not None)
    except Exception as error:  # of various types, and pyarrow's as their cause
        reason = one_line(str(error.__cause__ or error)) or type(error).__name__
        raise UserError(f"{dataset} cannot be read: {reason[:300]}", "dataset") from None
    if isinstance(loaded, Mapping):
        split = _choose_split(list(loaded), split, dataset)
        loaded = loaded[split]
    else:
        split = _choose_split([str(loaded.split or "all")], split, dataset)
    named = {"image": image, "label": label, "caption": caption}
    columns = _Columns(loaded, dataset, named, classnames)
    try:
        loaded = loaded.cast_column(columns.image, datasets.Image(decode=False))
        if rows is not None and not is_saved:
            photos = _stream(loaded.take(rows), columns, split)
        else:
            if rows is not None:
                loaded = loaded.select(range(min(rows, len(loaded))))
            photos = _index(loaded, columns, split)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{dataset} is damaged: {one_line(str(error))[:300]}", "dataset") from None
    if not photos:
        raise UserError(f"{dataset} has no rows in split {split}", "split")
    return photos


def rows_of(dataset: Any) -> list[Photo]:
    """The photos of a loaded ``datasets.Dataset``; see `huggingface`.

    Raises:
        UserError: If the columns of images or labels are ambiguous.
    """
    import datasets

    columns = _Columns(dataset, "the data set", {}, None)
    images = dataset.cast_column(columns.image, datasets.Image(decode=False))
    return _index(images, columns, str(dataset.split or "all"))


def _choose_split(splits: list[str], requested: str | None, dataset: str) -> str:
    if requested in splits:
        return str(requested)
    if requested is None and ("test" in splits or len(splits) == 1):
        return "test" if "test" in splits else splits[0]
    raise UserError(
        f"{dataset} has the splits {', '.join(splits)}: choose one"
        + (f", not {requested}{did_you_mean(requested, splits)}" if requested else ""),
        "split",
    )


class _Columns:
    """The columns that hold the photos, their labels and their captions.

    Args:
        loaded: The data set.
        dataset: Its name, for messages.
        named: Names of the columns ``image``, ``label`` and ``caption``; it finds those without.
        classnames: A file of names for classes that are numbers, if the data set defines none.
    """

    def __init__(
        self, loaded: Any, dataset: str, named: Mapping[str, str | None], classnames: str | None
    ) -> None:
        import datasets

        self.dataset = dataset
        self.features: dict[str, Any] = dict(loaded.features or {})
        image, label, caption = map(named.get, ("image", "label", "caption"))
        for option, column in named.items():
            if column is not None and column not in self.features:
                raise UserError(
                    f"{dataset} has no column {column}{did_you_mean(column, self.features)} (it "
                    f"has: {', '.join(self.features)})",
                    option,
                )
        images = self._select(lambda feature: isinstance(feature, datasets.Image))
        images = images or self._select(_may_hold_images)
        if image is None and len(images) != 1:
            raise UserError(
                f"{dataset} has {len(images)} columns that hold images ({', '.join(images)}), of "
                f"{', '.join(self.features)}: name one",
                "image",
            )
        classes = self._select(lambda feature: isinstance(feature, datasets.ClassLabel))
        if label is None and len(classes) > 1:
            raise UserError(f"{dataset} has the labels {', '.join(classes)}: name one", "label")
        classes += [name for name in LABELS if name in self.features]
        captions = [name for name in CAPTIONS if name in self.features]
        self.image = image or images[0]
        self.label = label or next(iter(classes), None)
        self.caption = caption or next(iter(captions), None)
        names = read_lines(classnames, "classnames") if classnames else None
        names = getattr(self.features.get(self.label or ""), "names", None) or names
        self.classes = class_labels([printable(name) for name in names]) if names else None

    def _select(self, test: Callable[[Any], bool]) -> list[str]:
        return [name for name, feature in self.features.items() if test(feature)]

    def class_of(self, value: Any) -> str | None:
        """The class that a value of the label's column stands for."""
        if value is None or value == -1:  # -1 stands for the secret labels of test sets
            return None
        if isinstance(value, str):
            return class_name(printable(value))
        if isinstance(value, int) and (self.classes is None or value < len(self.classes)):
            return self.classes[value] if self.classes is not None else str(value)
        raise UserError(
            f"{self.dataset}: {printable(str(value))[:40]} in the column {self.label} is not one "
            f"of the {len(self.classes or [])} classes: name another column, or set classnames",
            "label",
        )

    def texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The label and the captions of a row's photo."""
        texts = row.get(self.caption or "") or ()
        texts = (texts,) if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{self.dataset}: the column {self.caption} holds no texts: name another", "caption"
            )
        label = self.class_of(row[self.label]) if self.label else None
        return {"label": label, "captions": tuple(map(printable, texts))}


def _may_hold_images(feature: Any) -> bool:
    """Whether a column of a file without type information may hold encoded images."""
    content = feature.get("bytes") if isinstance(feature, Mapping) else feature
    return getattr(content, "dtype", None) in ("binary", "large_binary")


def _index(loaded: Any, columns: _Columns, split: str) -> list[Photo]:
    """The photos of a data set in files, which stay there."""
    images = loaded.select_columns([columns.image])
    files = loaded.cache_files
    texts = loaded.select_columns([c for c in (columns.label, columns.caption) if c])
    rows = iter(texts) if texts.column_names else ({} for _ in range(len(loaded)))
    file = Path(files[0]["filename"] if files else columns.dataset)
    return [
        RowPhoto(photo_id(f"{split}/{row}"), file, **columns.texts(texts), images=images, row=row)
        for row, texts in enumerate(rows)
    ]


def _stream(loaded: Any, columns: _Columns, split: str) -> list[Photo]:
    """The photos of a data set that is streamed: they are written to a temporary file."""
    folder = tempfile.TemporaryDirectory(prefix="clipshift-")
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "photos"
    photos = []
    with file.open("wb") as spool:
        for number, row in enumerate(loaded):
            stored = row[columns.image] or {}
            encoded = stored.get("bytes") or b""
            place = (photo_id(f"{split}/{number}"), file, spool.tell(), len(encoded))
            left_out = None if encoded else NO_IMAGE
            photos.append(Photo(*place, **columns.texts(row), left_out=left_out))
            spool.write(encoded)
    return sorted(photos, key=lambda photo: photo.left_out is not None)
