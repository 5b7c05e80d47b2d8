"""A table for terminals of any width."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column
from rich.table import Table as RichTable

__all__ = ["Column", "Table"]


class Table(RichTable):
    """Rich's table, which breaks no word: in a narrow terminal, each cell is a line after its column's name."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its cells below each other."""
        if self.__rich_measure__(console, options).minimum <= options.max_width:
            # Rich makes columns narrower than their longest words, although there is room for all of them.
            for column in self.columns:
                column.min_width = column.min_width or max(
                    Measurement.get(console, options, cell).minimum for cell in (column.header, *column.cells)
                )
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield self.title
        lines = RichTable.grid(padding=(0, 2, 0, 0))
        lines.add_column(style="dim", no_wrap=True)
        lines.add_column(overflow="fold", ratio=1)
        for cells in self._stacked():
            for column, cell in zip(self.columns, cells, strict=True):
                if cell != "":
                    lines.add_row(column.header, cell)
            lines.add_row("", "")
        yield lines

    def _stacked(self) -> Iterator[tuple[RenderableType, ...]]:
        yield from zip(*([*column.cells] for column in self.columns), strict=True)
        if self.show_footer:
            yield tuple(column.footer for column in self.columns)
