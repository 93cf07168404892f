"""How long work tells what it does: silent by default, bars on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from edgeres.figures import plain

PERIOD = 15.0
"""Seconds between two lines of a step, where there is no terminal."""


class Progress(Protocol):
    """Something that shows steps. `step` is entered for a piece of work of `total` units, None where that is not known,
    and gives a function that is told how many more of them are done; `say` states a fact."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Callable[[int], object]]: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Callable[[int], object]]:
        yield lambda done: None

    def say(self, text: str) -> None:
        pass


class Terminal:
    """Bars with rate and remaining time on standard error while it is a terminal; elsewhere, as in the log of a CI job,
    a line now and then of a step that takes long."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Callable[[int], object]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            rate,
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as bars:
            task, told = bars.add_task(plain(title), total=total, rate=""), time.monotonic()

            def advance(done: int) -> None:
                nonlocal told
                bars.advance(task, done)
                if hidden and time.monotonic() - told > PERIOD:
                    told = time.monotonic()
                    self.say(f"{title}: {bars.tasks[task].completed:.0f}{f' of {total}' if total else ''}")
                speed = bars.tasks[task].speed
                bars.update(task, rate=f"{speed:.1f}/s" if speed else "")

            yield advance

    def say(self, text: str) -> None:
        self.console.print(plain(text), highlight=False, markup=False)
