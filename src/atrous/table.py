"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def text(table: Table, width: int = 100) -> str:
    """As wide as the terminal; where there is none, `width`."""
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
