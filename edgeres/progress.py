"""How long work tells what it does: silent by default, bars on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from edgeres.figures import plain


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
    """Bars with rate and remaining time on standard error while it is a terminal, one line a finished step anyway."""

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
            task = bars.add_task(plain(title), total=total, rate="")

            def advance(done: int) -> None:
                bars.advance(task, done)
                speed = bars.tasks[task].speed
                bars.update(task, rate=f"{speed:.1f}/s" if speed else "")

            yield advance

    def say(self, text: str) -> None:
        self.console.print(plain(text), highlight=False, markup=False)
