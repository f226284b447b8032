"""What a run says in the terminal: progress in photos, and the last words."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class PhotoProgressBar(RichProgressBar):
    """Lightning's rich progress bar, counting photos and not batches."""

    @property
    def loader(self) -> Any:
        """The loader of this rank's photos."""
        return self.trainer.test_dataloaders

    @property
    def test_description(self) -> str:
        return "Measuring photos"

    @property
    def total_test_batches_current_dataloader(self) -> int:
        return len(self.loader.sampler)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done = (batch_idx + 1) * self.loader.batch_size
        total = self.total_test_batches_current_dataloader
        self._update(self.test_progress_bar_id, min(done, total))


def print_summary(
    title: str,
    tables: Mapping[str, list[list[str]]],
    warnings: list[str],
    lines: list[str],
) -> None:
    """Print the tables, as many columns as fit, what limits their numbers, and where things lie.

    Args:
        title: Head of the tables.
        tables: The summary by severity, each from `clipshift.report.page.ranked_table`.
        warnings: Sentences.
        lines: What else to say, as where files lie.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for severity, rows in tables.items():
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        fitting = max(2, bisect_right(list(accumulate(widths)), console.width - 2))
        head = f"{title}, severity {severity}: means with 95 % intervals"
        table = Table(
            title=Text(head, "italic"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column, name in enumerate(rows[0][:fitting]):
            table.add_column(Text(name), justify="right" if column else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*map(Text, row[:fitting]))
        console.print(table)
        if more := rows[0][fitting:]:
            console.print(f"in the report as well: {', '.join(more)}", soft_wrap=True, markup=False)
    for warning in warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
