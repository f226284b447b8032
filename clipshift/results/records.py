"""What is measured goes to the disk at once, so that a run that is stopped can go on."""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from clipshift.data import GONE, Skipped, read_json
from clipshift.results.files import write_json, write_whole
from clipshift.results.measured import KEPT, Measured, join

FOLDER = "measured"
"""Where a run keeps its records until its report is written, in its folder."""
OPTIONS = "options.json"


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

    def begin(self, options: Mapping[str, Any], anew: bool) -> list[str]:
        """Start, or go on from what an interrupted run of the same options has left.

        Args:
            options: All that decides the run's numbers, as JSON.
            anew: Whether to remove what is there.

        Returns:
            The names of the options that an interrupted run had otherwise, whose records these
            are: then nothing may be added.
        """
        wanted = json.loads(json.dumps(options))
        anew = anew or not any(self.folder.glob("[0-9]*.safetensors"))
        try:
            begun = read_json(self.folder / OPTIONS)
        except (OSError, ValueError):
            anew = True  # records without their options belong to no run
        if anew:
            self.remove()
            self.folder.mkdir(parents=True)
            write_json(self.folder / OPTIONS, wanted)
            return []
        return [name for name in wanted if begun.get(name) != wanted[name]]

    def add(self, measured: Measured) -> None:
        """Write what was measured of one batch."""
        tensors = {
            "index": measured.index,
            "digests": measured.digests,
            "distances": measured.distances,
        }
        if measured.values:
            tensors["values"] = np.stack(list(measured.values.values()))
        for name in ("layers", "outliers"):
            if getattr(measured, name) is not None:
                tensors[name] = getattr(measured, name)
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
        batches = []
        for file, part in self._batches():
            if any(skipped.reason == GONE for skipped in part.skipped):
                file.unlink()  # they may be there again
            else:
                batches.append((file, part))
        if not layers:
            return
        sums = self.sums()
        summed = set(sums.pop("photos", torch.empty(0)).tolist())
        if not summed <= {photo for _, part in batches for photo in part.index.tolist()}:
            summed = set()
        for file in self.folder.glob("sums-*.safetensors"):
            file.unlink()
        for file, part in batches:
            if not summed.issuperset(part.index.tolist()):
                file.unlink()
        if summed:
            self.add_sums(sums, sorted(summed), -1)

    def photos(self) -> set[int]:
        """Indices of the photos that were measured or skipped."""
        return {photo for _, part in self._batches() for photo in part.photos}

    def read(self) -> Measured:
        """All that was measured, by all processes."""
        return join([part for _, part in self._batches()])

    def sums(self) -> dict[str, Tensor]:
        """The layers' sums over all processes, and ``photos``, the indices of those in them."""
        total: dict[str, Tensor] = {}
        for file in sorted(self.folder.glob("sums-*.safetensors")):
            for name, value in load_tensors(file).items():
                if name not in total:
                    total[name] = value
                else:
                    total[name] = (
                        torch.cat([total[name], value]) if name == "photos" else total[name] + value
                    )
        return total

    def gather(self) -> None:
        """Bring the files of processes whose disk is another one to the first process's disk."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        size = dist.get_world_size()
        names: list[list[str]] = [[]] * size
        dist.all_gather_object(names, self.own)
        missing = [[n for own in names for n in own if not (self.folder / n).exists()]]
        dist.broadcast_object_list(missing)
        contents: list[dict[str, bytes]] = [{}] * size
        own = {n: (self.folder / n).read_bytes() for n in missing[0] if n in self.own}
        dist.all_gather_object(contents, own)
        if dist.get_rank() == 0:
            for name, content in (item for files in contents for item in files.items()):
                write_whole(self.folder / name, partial(Path.write_bytes, data=content))

    def remove(self) -> None:
        """Remove the records: the run's tables hold all there is in them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _batches(self) -> Iterator[tuple[Path, Measured]]:
        for file in sorted(self.folder.glob("[0-9]*.safetensors")):
            try:
                yield file, _read(file)
            except (SafetensorError, ValueError, KeyError, TypeError):
                file.unlink()  # cut by a power failure: its photos are measured again


def _read(file: Path) -> Measured:
    with safe_open(file, "np") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    by_view: dict[str, dict[str, np.ndarray]] = {}
    for name, rows in tensors.items():
        kind, space, view = name.partition(" ")
        if space:
            by_view.setdefault(kind, {})[view] = rows
    kept = {
        kind: {
            view: dict(zip(tensors[kind].tolist(), rows, strict=True))
            for view, rows in by_view.get(kind, {}).items()
        }
        for kind in KEPT
    }
    keys = [tuple(key) for key in json.loads(metadata["values"])]
    return Measured(
        index=tensors["index"],
        values=dict(zip(keys, tensors.get("values", ()), strict=True)),
        digests=tensors["digests"],
        distances=tensors["distances"],
        layers=tensors.get("layers"),
        outliers=tensors.get("outliers"),
        embeddings=by_view.get("embeddings", {}),
        skipped=[Skipped(*one) for one in json.loads(metadata["skipped"])],
        seconds=json.loads(metadata["seconds"]),
        **kept,
    )
