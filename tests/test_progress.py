import io

import pytest
from rich.console import Console

from edgeres import progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes long is told from one that hangs."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.Terminal()
    shown.console = Console(file=io.StringIO(), width=80)
    with shown.step("evaluate", 100) as advance:
        for _ in range(50):
            now += 1.0
            advance(2)
    lines = shown.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["evaluate: 32 of 100", "evaluate: 64 of 100", "evaluate: 96 of 100"]


def test_a_step_that_is_soon_done_says_nothing() -> None:
    shown = progress.Terminal()
    shown.console = Console(file=io.StringIO(), width=80)
    with shown.step("evaluate", None) as advance:
        advance(1)
    assert shown.console.file.getvalue() == ""  # type: ignore[attr-defined]
