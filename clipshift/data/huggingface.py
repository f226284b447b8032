"""Photos in data sets of Hugging Face's `datasets`: parquet and arrow files, here or on the hub."""

import atexit
import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipshift.data.classes import read_lines
from clipshift.data.photos import Photo, photo_id
from clipshift.data.wordnet import class_labels, class_name
from clipshift.errors import UserError, did_you_mean, one_line, printable

LABELS = ("label", "labels", "cls")
CAPTIONS = ("caption", "captions", "text", "texts", "sentences")
NO_BYTES = "the row holds no bytes of an image"


@dataclass(frozen=True)
class Row(Photo):
    """A photo in a row of a data set that lies in memory-mapped files.

    Args:
        images: The data set's column of images, not decoded.
        row: The row.
    """

    images: Any = field(default=None, compare=False, repr=False)
    row: int = 0

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: If the row holds none, as where it only names a file.
        """
        (stored,) = self.images[self.row].values()
        if not stored or stored["bytes"] is None:
            raise OSError(errno.EINVAL, NO_BYTES)
        return bytes(stored["bytes"])

    def length(self) -> int:
        """How many bytes the encoded image has."""
        return len(self.read())

    def excerpt(self) -> tuple[int, bytes]:
        """The length and the SHA-256 of the image: there is no part of it to be read alone."""
        encoded = self.read()
        return len(encoded), hashlib.sha256(encoded).digest()


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
    """The photos of a data set that the package `datasets` reads. Needs the extra ``hf``.

    No code of a data set is ever run: `datasets` 4 and later has no loading scripts.

    Args:
        dataset: A folder of parquet or arrow files, or one that ``save_to_disk`` wrote; or the name
            of a data set on the hub.
        name: Which of its configurations, where it has several.
        split: Which split; by default ``test``, or the only one.
        image: The column of the photos; by default the only one with images.
        label: That of the classes; by default the only ``ClassLabel``, or ``label``.
        caption: That of the captions, texts or lists of texts; by default ``caption``, ``text``, ….
        classnames: A file of class names, for labels that are bare numbers: line by line from 0.
        rows: Only so many first rows. They are streamed: of a data set on the hub nothing more is
            downloaded, and the photos go to a temporary file, so that memory does not grow.

    Returns:
        The photos in the order of the rows; the id is ``SPLIT/ROW``, rows from 0. Rows without an
        image are left out (`Photo.left_out`).

    Raises:
        UserError: If `datasets` is not installed, there is no such data set, split or column, or it
            is damaged.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data=huggingface needs: pip install 'clipshift[hf]'") from None
    saved = _is_saved(Path(str(dataset)).expanduser())
    try:
        if saved:
            loaded = datasets.load_from_disk(str(Path(dataset).expanduser()))
        else:
            loaded = datasets.load_dataset(_place(dataset), name, streaming=rows is not None)
    except Exception as error:  # of all kinds, and pyarrow's own within them
        reason = one_line(str(error.__cause__ or error)) or type(error).__name__
        raise UserError(f"{dataset} cannot be read: {reason[:300]}", "dataset") from None
    if isinstance(loaded, Mapping):
        split = _split(list(loaded), split, dataset)
        loaded = loaded[split]
    elif split not in (None, known := str(loaded.split or "all")):
        raise UserError(f"{dataset} has no split {split}: it is {known}", "split")
    else:
        split = known
    columns = _Columns(loaded, dataset, image, label, caption)
    name_of = columns.labels(read_lines(classnames, "classnames") if classnames else None)
    try:
        loaded = loaded.cast_column(columns.image, datasets.Image(decode=False))
        if rows is not None and not saved:
            photos = _stream(loaded.take(rows), columns, split, name_of)
        else:
            if rows is not None:
                loaded = loaded.select(range(min(rows, len(loaded))))
            photos = _index(loaded, columns, split, name_of)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{dataset} is damaged: {one_line(str(error))[:300]}", "dataset") from None
    if not photos:
        raise UserError(f"{dataset} has no rows in split {split}", "split")
    return photos


def rows_of(dataset: Any) -> list[Photo]:
    """The photos of a ``datasets.Dataset`` that a Python caller has loaded: see `huggingface`.

    Raises:
        UserError: If its columns cannot be told apart.
    """
    import datasets

    columns = _Columns(dataset, "the data set", None, None, None)
    images = dataset.cast_column(columns.image, datasets.Image(decode=False))
    return _index(images, columns, str(dataset.split or "all"), columns.labels(None))


def _place(dataset: str) -> str:
    folder = Path(str(dataset)).expanduser()
    return str(folder) if folder.is_dir() else str(dataset)


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _split(known: list[str], asked: str | None, dataset: str) -> str:
    if asked in known:
        return str(asked)
    if asked is None and ("test" in known or len(known) == 1):
        return "test" if "test" in known else known[0]
    raise UserError(
        f"{dataset} has the splits {', '.join(known)}: choose one"
        + (f", not {asked}{did_you_mean(asked, known)}" if asked else ""),
        "split",
    )


class _Columns:
    """Which columns hold the photos, their labels and their captions.

    Args:
        loaded: The data set.
        dataset: Its name, for messages.
        image: The column that is asked for; None looks for it, as with the others.
        label: Likewise.
        caption: Likewise.
    """

    def __init__(
        self, loaded: Any, dataset: str, image: str | None, label: str | None, caption: str | None
    ) -> None:
        import datasets

        self.dataset = dataset
        self.features: dict[str, Any] = dict(loaded.features or {})
        for option, asked in (("image", image), ("label", label), ("caption", caption)):
            if asked is not None and asked not in self.features:
                raise UserError(
                    f"{dataset} has no column {asked}{did_you_mean(asked, self.features)} (it has: "
                    f"{', '.join(self.features)})",
                    option,
                )
        images = self._of(lambda one: isinstance(one, datasets.Image)) or self._of(_holds_bytes)
        if image is None and len(images) != 1:
            raise UserError(
                f"{dataset} has {len(images)} columns that hold images ({', '.join(images)}), of "
                f"{', '.join(self.features)}: name one",
                "image",
            )
        classes = self._of(lambda one: isinstance(one, datasets.ClassLabel))
        if label is None and len(classes) > 1:
            raise UserError(f"{dataset} has the labels {', '.join(classes)}: name one", "label")
        self.image = image or images[0]
        self.label = label or next(iter(classes or self._called(LABELS)), None)
        self.caption = caption or next(iter(self._called(CAPTIONS)), None)

    def _of(self, test: Callable[[Any], bool]) -> list[str]:
        return [name for name, feature in self.features.items() if test(feature)]

    def _called(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.features]

    def labels(self, names: Sequence[str] | None) -> Callable[[Any], str | None]:
        """The class of a value of the label's column.

        Args:
            names: Of classes that are numbers, if the data set does not have them.
        """
        names = getattr(self.features.get(self.label or ""), "names", None) or names
        known = class_labels([printable(name) for name in names]) if names else None

        def label(value: Any) -> str | None:
            if value is None or value == -1:  # as test sets have it whose classes are kept secret
                return None
            if isinstance(value, str):
                return class_name(printable(value))
            if known is not None and isinstance(value, int) and value < len(known):
                return known[value]
            if known is None and isinstance(value, int):
                return str(value)
            raise UserError(
                f"{self.dataset}: {printable(str(value))[:40]} in the column {self.label} is none "
                f"of the {len(known or [])} classes: name another column, or give their names",
                "label",
            )

        return label

    def photo(self, row: Mapping[str, Any], label: Callable[[Any], str | None]) -> dict[str, Any]:
        """What a row says of its photo."""
        texts = row.get(self.caption or "") or ()
        texts = (texts,) if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
            raise UserError(
                f"{self.dataset}: the column {self.caption} holds no texts: name another", "caption"
            )
        return {
            "label": label(row[self.label]) if self.label else None,
            "captions": tuple(map(printable, texts)),
        }


def _holds_bytes(feature: Any) -> bool:
    """Whether a column may hold encoded images, by what a file says that says no more."""
    of = feature.get("bytes") if isinstance(feature, Mapping) else feature
    return getattr(of, "dtype", None) in ("binary", "large_binary")


def _index(
    loaded: Any, columns: _Columns, split: str, label: Callable[[Any], str | None]
) -> list[Photo]:
    images = loaded.select_columns([columns.image])
    files = loaded.cache_files
    texts = loaded.select_columns([c for c in (columns.label, columns.caption) if c])
    rows = iter(texts) if texts.column_names else ({} for _ in range(len(loaded)))
    file = Path(files[0]["filename"] if files else columns.dataset)
    return [
        Row(
            photo_id(f"{split}/{number}"),
            file,
            **columns.photo(row, label),
            images=images,
            row=number,
        )
        for number, row in enumerate(rows)
    ]


def _stream(
    loaded: Any, columns: _Columns, split: str, label: Callable[[Any], str | None]
) -> list[Photo]:
    folder = tempfile.TemporaryDirectory(prefix="clipshift-")
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "photos"
    photos = []
    with file.open("wb") as spool:
        for number, row in enumerate(loaded):
            stored = row[columns.image] or {}
            encoded = stored.get("bytes")
            photos.append(
                Photo(
                    photo_id(f"{split}/{number}"),
                    file,
                    spool.tell(),
                    len(encoded or b""),
                    **columns.photo(row, label),
                    left_out=None if encoded else NO_BYTES,
                )
            )
            spool.write(encoded or b"")
    return sorted(photos, key=lambda photo: photo.left_out is not None)
