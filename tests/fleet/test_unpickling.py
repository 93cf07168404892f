"""Of pickles nothing runs but what edgeres named."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

pytest.importorskip("distributed", reason="the extra `devices` is not installed")

from dask._expr import Expr
from dask._task_spec import Task

from edgeres.errors import UsageError
from edgeres.fleet import agent, tasks, unpickling
from edgeres.fleet.address import Address


@pytest.fixture(autouse=True)
def _restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For these tests alone: others in this process may need Dask as it is."""
    from distributed import client, scheduler
    from distributed.protocol import pickle as protocol

    for module in (client, scheduler, protocol):
        monkeypatch.setattr(module, "pickle", module.pickle)
    agent.dask()


class Evil:
    """Runs a command while it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_what_a_pickle_would_have_called_is_not(tmp_path: Path) -> None:
    from distributed.protocol import pickle as protocol

    evil = pickle.dumps({"a": [Evil(tmp_path / "ran")]})
    assert "system" in repr(type(protocol.loads(evil)["a"][0]).name)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil)
    assert (tmp_path / "ran").exists(), "which it would have, elsewhere"


@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "posix.system"), (lambda path: Path(path).touch(), "_make_function"), (eval, "builtins.eval")],
)
def test_a_task_of_another_function_says_what_was_refused(function: Any, named: str, tmp_path: Path) -> None:
    sent = cloudpickle.dumps(Task("key", function, f"{tmp_path}/ran"))
    for _ in range(2):  # through a scheduler, to a worker
        task = unpickling.loads(sent)
        sent = pickle.dumps(task)
    with pytest.raises(UsageError, match=f"{named} is no task of edgeres"):
        task()
    assert not list(tmp_path.iterdir())


class Called:
    """Has a function called, with these arguments, while it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


CONTENT = b"an engine"
PIECES = [(hashlib.sha256(CONTENT).hexdigest(), 0, len(CONTENT), CONTENT)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Called(tasks.put, PIECES),
        lambda: Called(tasks.job, "predict", {}),
        lambda: Called(tasks.missing, {}),
        lambda: Called(tasks.facts),
        lambda: Called(Expr._reconstruct, tasks.facts, None, {}),
        lambda: Called(Task("key", tasks.put, PIECES)),
    ],
)
def test_reading_a_message_runs_none_of_our_tasks_either(
    call: Callable[[], Called], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come from a device, and be read by the scheduler."""
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path / "kept"))
    monkeypatch.setattr(tasks, "run", lambda *_: {"value": (tmp_path / "ran").touch()})
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        unpickling.loads(pickle.dumps([call()]))
    assert list(tmp_path.iterdir()) == []
    assert tasks.put(PIECES)["value"], "elsewhere they are"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("edgeres.fleet.tasks", "job"),
        ("edgeres.fleet.unpickling", "refused"),
        ("dask._task_spec", "Task"),
        ("dask._expr", "LLGExpr"),
        ("dask._expr", "Expr._reconstruct"),
        ("dask.typing", "no_default"),
        ("tblib.pickling_support", "unpickle_exception"),
    ],
)
@pytest.mark.parametrize("state", [{"marker": 1}, (None, {"marker": 1}), (None, {"__defaults__": (1,)})])
def test_a_message_changes_nothing_that_others_use(module: str, name: str, state: Any) -> None:
    def pushed(text: str) -> bytes:
        return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()

    found = b"\x80\x04" + pushed(module) + pushed(name) + pickle.STACK_GLOBAL
    shared = unpickling.loads(found + pickle.STOP)
    assert not isinstance(shared, type(unpickling.refused("x")))
    before = getattr(shared, "__defaults__", None)
    with pytest.raises(pickle.UnpicklingError, match="no message's to change"):
        unpickling.loads(found + pickle.dumps(state, 2)[2:-1] + pickle.BUILD + pickle.STOP)
    assert not hasattr(shared, "marker")
    assert getattr(shared, "__defaults__", None) == before


def test_a_task_of_ours_is_run() -> None:
    task = unpickling.loads(pickle.dumps(Task("key", tasks.missing, {})))
    assert task() == {"value": {}}


def test_an_error_comes_without_its_frames() -> None:
    from distributed.protocol import pickle as protocol

    try:
        raise UsageError("this is what is wrong.")
    except UsageError as error:
        sent, frames = protocol.dumps(error), protocol.dumps(error.__traceback__)
    assert isinstance(protocol.loads(sent), UsageError)
    assert str(protocol.loads(sent)) == "this is what is wrong."
    assert protocol.loads(frames) is None


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "tcp://0.0.0.0:8786", "tls://127.0.0.1:8786", "tcp://a"])
def test_without_certificates_loopback_is_served_alone(address: str) -> None:
    with pytest.raises(UsageError, match="--certificates"):
        agent.security(Address.parse(address), None, "worker")
    assert agent.security(Address.parse("tcp://127.0.0.1:8786"), None, "worker") is None
