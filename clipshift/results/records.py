"""Records: what is measured is written at once, so that an interrupted run can continue."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from clipshift.data.dataset import GONE, Skipped
from clipshift.data.files import read_text, typed
from clipshift.results.files import subfolder, write_json, write_whole
from clipshift.results.measured import KEPT, ROWS, Measured, join

FOLDER = "measured"
"""Where a run keeps its records until its report is written, in its folder."""
OPTIONS = "options.json"
STORED_OPTIONS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
PHOTOS_PER_CHUNK = 1024
"""The number of photos whose values are in memory on their way into ``shift.parquet``."""


class Records:
    """The records of a run in progress: one file per batch, and the layers' running sums.

    A file appears whole or not at all. Where layers are measured, photos count once they are in
    the sums that are on the disk: those are large, and not written after every batch.

    Args:
        run_folder: The run's folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / FOLDER
        self.own: list[str] = []

    def begin(self, options: Mapping[str, Any], restart: bool) -> list[str]:
        """Start empty, or continue the records that an interrupted run with these options left.

        Args:
            options: All that decides the run's numbers, as JSON.
            restart: Whether to remove what an earlier run left.

        Returns:
            The options that differ from those of the interrupted run whose records these are. If
            there are any, do not add records.
        """
        wanted = json.loads(json.dumps(options))
        restart = restart or not any(self.folder.glob("[0-9]*.safetensors"))
        try:
            begun = typed(STORED_OPTIONS, read_text(self.folder / OPTIONS))
        except (OSError, ValueError):
            restart = True  # records without their options belong to no run
        if restart:
            subfolder(self.folder.parent, FOLDER, empty=True)
            write_json(self.folder / OPTIONS, wanted)
            return []
        return [name for name in wanted if begun.get(name) != wanted[name]]

    def add(self, measured: Measured) -> None:
        """Write what was measured of one batch."""
        rows = {name: getattr(measured, name) for name in ROWS}
        tensors = {name: array for name, array in rows.items() if array is not None}
        tensors["index"] = measured.index
        if measured.values:
            tensors["values"] = np.stack(list(measured.values.values()))
        tensors |= {f"embeddings {view}": rows for view, rows in measured.embeddings.items()}
        for kind in KEPT:
            for view, by_photo in getattr(measured, kind).items():
                tensors[kind] = np.array(list(by_photo))
                tensors[f"{kind} {view}"] = np.stack(list(by_photo.values()))
        # safetensors writes memory as it lies
        tensors = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
        metadata = {
            "values": json.dumps(list(measured.values)),
            "skipped": json.dumps([[one.index, one.reason] for one in measured.skipped]),
            "seconds": json.dumps(measured.seconds),
        }
        name = f"{min(measured.photos):09d}.safetensors"
        write_whole(self.folder / name, lambda path: save_file(tensors, path, metadata))
        self.own.append(name)

    def add_sums(self, sums: Mapping[str, Tensor], photos: list[int], rank: int) -> None:
        """Write a process's running sums, and which photos are in them, in place of its last."""
        tensors = {name: value.cpu() for name, value in sums.items()}
        tensors["photos"] = torch.tensor(photos, dtype=torch.long)
        name = f"sums-{rank}.safetensors"
        write_whole(self.folder / name, lambda path: save_tensors(tensors, path))
        if name not in self.own:
            self.own.append(name)

    def settle(self, layers: bool) -> None:
        """Remove files that are damaged, photos that were gone and, with layers, those in no sum.

        Call it once, before anything is added: later sums go beside those that are there.
        """
        measured = {}
        for file, part in self._batches():
            if any(skipped.reason == GONE for skipped in part.skipped):
                file.unlink()  # they may be there again
            else:
                measured[file] = part.index.tolist()
        if not layers:
            return
        sums = self.sums()
        summed = set(sums.pop("photos", torch.empty(0)).tolist())
        if not summed.issubset(photo for photos in measured.values() for photo in photos):
            summed = set()
        for file in self.folder.glob("sums-*.safetensors"):
            file.unlink()
        for file, photos in measured.items():
            if not summed.issuperset(photos):
                file.unlink()
        if summed:
            self.add_sums(sums, sorted(summed), -1)

    def photos(self) -> set[int]:
        """Indices of the photos that were measured or skipped."""
        return {photo for _, part in self._batches("index") for photo in part.photos}

    def read(self, *kinds: str) -> Measured:
        """What was measured, by all processes.

        Args:
            kinds: What of it, by its names in `Measured`; by default all. Indices, skipped photos
                and seconds always are.
        """
        return join([part for _, part in self._batches(*kinds)])

    def parts(self, *kinds: str) -> Iterator[Measured]:
        """What was measured, as `read` gives it, batch by batch in any order."""
        return (part for _, part in self._batches(*kinds) if len(part.index))

    def sorted_values(
        self, order: np.ndarray, complete: Callable[[Measured], None]
    ) -> Iterator[Measured]:
        """The photos' values in a given order, by `PHOTOS_PER_CHUNK` photos, sorted on the disk.

        Args:
            order: The indices of all measured photos, in the order that is wanted.
            complete: Adds to a batch the values that follow from all photos, and from its clean
                embeddings.
        """
        place = np.empty(order.max(initial=-1) + 1, int)
        place[order] = np.arange(len(order))
        keys: list[tuple[str, str]] = []
        with TemporaryFile(dir=self.folder) as rows:
            for part in self.parts("values", "embeddings"):
                complete(part)
                keys = list(part.values)
                table = np.stack(list(part.values.values()), axis=1)
                for row, values in zip(place[part.index], table, strict=True):
                    rows.seek(int(row) * values.nbytes)
                    rows.write(values)
            rows.seek(0)
            for start in range(0, max(1, len(order)), PHOTOS_PER_CHUNK):
                index = order[start : start + PHOTOS_PER_CHUNK]
                table = np.fromfile(rows, float, len(index) * len(keys))
                columns = table.reshape(len(index), len(keys)).T
                yield Measured(index=index, values=dict(zip(keys, columns, strict=True)))

    def sums(self) -> dict[str, Tensor]:
        """The layers' sums over all processes, and ``photos``, the indices of those in them."""
        total: dict[str, Tensor] = {}
        for file in sorted(self.folder.glob("sums-*.safetensors")):
            for name, value in load_tensors(file).items():
                if name in total:
                    before = total[name]
                    value = torch.cat([before, value]) if name == "photos" else before + value
                total[name] = value
        return total

    def gather(self) -> None:
        """Bring the files of processes whose disk is another one to the first process's disk.

        Each goes from one process to the first alone, as the bytes that it is, a file at a time.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        sizes = {name: (self.folder / name).stat().st_size for name in self.own}
        everyones: list[dict[str, int]] = [{}] * dist.get_world_size()
        dist.all_gather_object(everyones, sizes)
        written = [(rank, *file) for rank, own in enumerate(everyones) for file in own.items()]
        missing = [[file for file in written if not (self.folder / file[1]).exists()]]
        dist.broadcast_object_list(missing)
        if not missing[0]:
            return
        files = dist.new_group(backend="gloo")  # of bytes in memory, whatever the device
        for sender, name, size in missing[0]:
            if dist.get_rank() == sender:
                dist.send(torch.from_numpy(np.fromfile(self.folder / name, np.uint8)), 0, files)
            elif dist.get_rank() == 0:
                content = torch.empty(size, dtype=torch.uint8)
                dist.recv(content, sender, files)
                write_whole(self.folder / name, content.numpy().tofile)

    def remove(self) -> None:
        """Remove the records: the run's tables hold all there is in them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _batches(self, *kinds: str) -> Iterator[tuple[Path, Measured]]:
        for file in sorted(self.folder.glob("[0-9]*.safetensors")):
            try:
                yield file, _read(file, kinds)
            except (SafetensorError, ValueError, KeyError, TypeError):
                file.unlink()  # cut by a power failure: its photos are measured again


def _read(file: Path, kinds: Collection[str]) -> Measured:
    with safe_open(file, "np") as stored:
        metadata = stored.metadata()
        tensors = {
            name: stored.get_tensor(name)
            for name in stored.keys()  # noqa: SIM118
            if not kinds or name.partition(" ")[0] in ("index", *kinds)
        }
    by_view: dict[str, dict[str, np.ndarray]] = {}
    for name, rows in tensors.items():
        kind, space, view = name.partition(" ")
        if space:
            by_view.setdefault(kind, {})[view] = rows
    kept: dict[str, Any] = {
        kind: {
            view: dict(zip(tensors[kind].tolist(), rows, strict=True))
            for view, rows in by_view.get(kind, {}).items()
        }
        for kind in KEPT
    }
    has_values = not kinds or "values" in kinds
    keys = [tuple(key) for key in json.loads(metadata["values"]) if has_values]
    return Measured(
        index=tensors["index"],
        values=dict(zip(keys, tensors.get("values", ()), strict=True)),
        **{name: tensors[name] for name in ROWS if name in tensors},
        embeddings=by_view.get("embeddings", {}),
        skipped=[Skipped(*one) for one in json.loads(metadata["skipped"])],
        seconds=json.loads(metadata["seconds"]),
        **kept,
    )
