"""Batches of the photos that are not measured yet; each process gets its share."""

import multiprocessing

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from clipshift.data.dataset import Skipped, View, ViewDataset, collate
from clipshift.errors import UserError
from clipshift.results.records import Records

GPU_WORKERS = 4
"""How many processes read photos for each GPU, where it is not said."""


class ViewData(LightningDataModule):
    """Batches of views of the photos that have no record yet.

    Args:
        dataset: The views.
        batch_size: Photos in a batch.
        num_workers: Processes that read, decode and draw; 0 does it in this one. None is 0
            where a CPU encodes, as they would take its time, and `GPU_WORKERS` otherwise.
        records: What is measured already.
        layers: Whether layers are measured, whose sums the records must hold as well.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        batch_size: int,
        num_workers: int | None,
        records: Records,
        layers: bool = False,
    ) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.num_workers = dataset, batch_size, num_workers
        self.records, self.layers = records, layers
        self.left: list[int] = []

    def prepare_data(self) -> None:
        """Make the records whole: Lightning calls this in one process, before `setup` in all."""
        self.records.settle(self.layers)

    def setup(self, stage: str) -> None:
        """Find out what is left to measure, in all processes before any of them starts.

        The first process decides: of what is left, and of where the records go.
        """
        done = self.records.photos()
        self.left = [index for index in range(len(self.dataset)) if index not in done]
        if self.trainer:
            strategy = self.trainer.strategy
            self.left, self.records.folder = strategy.broadcast((self.left, self.records.folder))
            self.records.folder.mkdir(parents=True, exist_ok=True)  # on a disk of its own

    def test_dataloader(self) -> DataLoader[View | Skipped]:
        """The photos that are left, each once over all ranks.

        A rank has as many consecutive photos as others, so that a machine reads whole shards and no
        part of those of others. torch's `DistributedSampler` would repeat photos until every rank
        has as many, and so count some twice.
        A rank without photos gets one batch of none: Lightning wants one from every rank.

        Raises:
            UserError: If several processes are to read them where there is no ``/dev/shm``.
        """
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        start, end = (len(self.left) * one // world_size for one in (rank, rank + 1))
        if start == end:
            return DataLoader([None], collate_fn=lambda _: collate([]))  # type: ignore[arg-type]
        workers = self.num_workers
        if workers is None:
            on_cpu = not self.trainer or self.trainer.strategy.root_device.type == "cpu"
            workers = 0 if on_cpu else GPU_WORKERS
        if workers:
            try:
                multiprocessing.Lock()
            except OSError:
                raise UserError(
                    "photos cannot be read by several processes without /dev/shm: use "
                    "data.num_workers=0"
                ) from None
        methods = multiprocessing.get_all_start_methods()
        unknown = multiprocessing.get_start_method() not in methods  # as within joblib's processes
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=self.left[start:end],
            num_workers=workers,
            collate_fn=collate,
            multiprocessing_context=methods[0] if unknown and workers else None,
        )
