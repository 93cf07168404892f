"""What a message may hold: edgeres' own tasks, plain data, and the envelopes that Dask packs them in.

Dask sends functions and values as pickles, which can name any function of any module and have it called while they are
read (https://docs.python.org/3/library/pickle.html#restricting-globals). Here a pickle finds what is listed; all else
becomes a stand-in that does nothing, and says so where a task calls it. So a message from a stranger, or from a client
that was taken over, runs nothing: it gives an error that names what was refused.
"""

import importlib
import io
import pickle
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NoReturn

from edgeres.errors import UsageError

ENVELOPES: dict[str, frozenset[str]] = {
    "dask._task_spec": frozenset({"Alias", "DataNode", "Dict", "List", "Set", "Task", "TaskRef", "Tuple"}),
    "dask._expr": frozenset({"Expr._reconstruct", "LLGExpr"}),
    "dask.typing": frozenset({"no_default"}),
    "distributed.client": frozenset({"SourceCode"}),
    "distributed.scheduler": frozenset({"KilledWorker", "NoValidWorkerError"}),
    "edgeres.fleet.unpickling": frozenset({"Refused"}),
}
"""Module -> what of it carries tasks, arguments and results: classes that hold what they are given."""
PLAIN: dict[str, frozenset[str]] = {
    "builtins": frozenset({"bytearray", "bytes", "complex", "dict", "frozenset", "list", "set", "slice", "tuple"})
    | frozenset({"bool", "float", "int", "str", "Exception", "KeyError", "MemoryError", "OSError", "RuntimeError"})
    | frozenset({"TypeError", "ValueError"}),
    "collections": frozenset({"OrderedDict", "deque"}),
    "edgeres.errors": frozenset({"BuildError", "EdgeresError", "InputError", "MissingRuntime", "UsageError"}),
    "uuid": frozenset({"UUID"}),
}
_reading = threading.local()


class Refused:
    """Stands for what a pickle named and may not have."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object, **__: object) -> "Refused":
        if getattr(_reading, "now", False):  # the pickle wants it called: it gets what stands for the outcome
            return self
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raise what says so."""
        raise UsageError(f"{self.name} is no task of edgeres and was not run; agents run edgeres' own tasks alone.")

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict) and isinstance(state.get("name"), str):
            self.name = state["name"]

    def __reduce__(self) -> tuple[type["Refused"], tuple[str]]:
        return Refused, (self.name,)

    def __repr__(self) -> str:
        return f"<refused: {self.name}>"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _allowed.get(module, ()):
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            return found
        return Refused(f"{module}.{name}")


_allowed: dict[str, frozenset[str]] = {**ENVELOPES, **PLAIN}


def loads(content: bytes, *, buffers: Iterable[Any] = ()) -> Any:
    """Read a pickle; nothing that is not listed is imported or called."""
    before, _reading.now = getattr(_reading, "now", False), True
    try:
        return _Unpickler(io.BytesIO(content), buffers=buffers).load()
    finally:
        _reading.now = before


def restrict(tasks: ModuleType) -> None:
    """From now on let this process, be it scheduler, worker or client, read nothing but what is listed here and the
    functions that `tasks` names in `TASKS`."""
    from distributed import client, scheduler
    from distributed.protocol import pickle as protocol

    _allowed[tasks.__name__] = frozenset(function.__name__ for function in tasks.TASKS)
    restricted = ModuleType("pickle")
    vars(restricted).update({name: value for name, value in vars(pickle).items() if not name.startswith("__")})
    vars(restricted)["loads"] = loads
    for module in (protocol, client, scheduler):
        module.pickle = restricted
