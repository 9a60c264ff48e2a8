"""What commands print: results on stdout, everything else on stderr."""

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


def folder(text: str) -> str:
    """A folder named on the command line. An empty name would be the working directory, which nobody means."""
    if not text:
        raise ArgumentTypeError("the name of the folder is empty")
    return text


class Report(Protocol):
    """Called by long work: what is being done, how much is done, how much there is (0: unknown)."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it."""
        ...


def print_json(body: Any) -> None:
    """One JSON document per line on stdout."""
    print(json.dumps(body, allow_nan=False), flush=True)


def say(line: str) -> None:
    """One line for the person at the terminal (stderr)."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Report]:
    """A progress bar on stderr while the block runs; silent when ``quiet`` or when stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """A table on stdout, the first column to the left and the others to the right; brackets are no markup."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.capture() as shown:
        console.print(table)
    # printed by ourselves: where the reader has gone, rich would end the process with an exit code of its own
    print(shown.get(), end="")
    if note:
        print(note)


def print_facts(facts: Mapping[str, str]) -> None:
    """Aligned ``name  value`` lines on stdout."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}".rstrip())
