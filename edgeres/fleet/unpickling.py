"""What a message may hold: edgeres' own tasks, plain data, and the envelopes that Dask packs them in.

Dask sends functions and values as pickles, which can name any function of any module and have it called while they are
read (https://docs.python.org/3/library/pickle.html#restricting-globals). Here a pickle finds what is listed; all else
becomes a stand-in that does nothing, and says so where a task calls it. So a message from a stranger, or from a client
that was taken over, runs nothing: it gives an error that names what was refused.
"""

import copyreg
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, ClassVar, NoReturn

from edgeres.errors import UsageError

ENVELOPES: dict[str, frozenset[str]] = {
    "dask._task_spec": frozenset({"Alias", "DataNode", "Dict", "List", "Set", "Task", "TaskRef", "Tuple"}),
    "dask._expr": frozenset({"Expr._reconstruct", "LLGExpr"}),
    "dask.typing": frozenset({"no_default"}),
    "distributed.client": frozenset({"SourceCode"}),
    "distributed.scheduler": frozenset({"KilledWorker", "NoValidWorkerError"}),
    "edgeres.fleet.unpickling": frozenset({"refused"}),
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


class _Named(type):
    """Of the stand-ins: each is a class, as a pickle may want instances of it."""

    name: str


class Refused(metaclass=_Named):
    """Stands for what a pickle named and may not have: holds nothing, does nothing."""

    name = ""

    def __new__(cls, *_: object, **__: object) -> "Refused":
        return object.__new__(cls) if reading() else cls.refuse()

    def __call__(self, *_: object, **__: object) -> "Refused":
        return self if reading() else self.refuse()

    def __setstate__(self, state: object) -> None:
        pass

    def __reduce__(self) -> Any:
        return refused, (self.name,)

    @classmethod
    def refuse(cls) -> NoReturn:
        raise UsageError(f"{cls.name} is no task of edgeres and was not run; agents run edgeres' own tasks alone.")


def refused(name: str) -> type[Refused]:
    """The stand-in for what a pickle calls `name`."""
    made: type[Refused] = _Named.__call__(_Named, Refused.__name__, (Refused,), {"name": str(name)})
    return made


copyreg.pickle(_Named, lambda cls: (refused, (cls.name,)))


def _exception(kind: Any, told: Any, *_: object) -> BaseException:
    """An exception without its frames, which tblib would make anew from what the message says."""
    arguments = told.get("args", ()) if isinstance(told, dict) else told
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return kind(*arguments)
    return RuntimeError(f"{getattr(kind, 'name', kind)}: {arguments}")


_INSTEAD: dict[tuple[str, str], Callable[..., Any]] = {
    ("tblib.pickling_support", "unpickle_exception"): _exception,
    ("tblib.pickling_support", "unpickle_exception_with_attrs"): _exception,
    ("tblib.pickling_support", "unpickle_traceback"): lambda *_: None,
}


_Slow: Any = pickle._Unpickler
"""In Python: nobody can look at what the one in C builds."""


class _Unpickler(_Slow):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_Slow.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if instead := _INSTEAD.get((module, name)):
            return instead
        if name not in _allowed.get(module, ()):
            return refused(f"{module}.{name}")
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def load_build(self) -> None:
        """State is for what the pickle made, not for functions and classes, which all messages share."""
        if isinstance(self.stack[-2], type | FunctionType | Enum):
            raise pickle.UnpicklingError(f"{self.stack[-2]} is no message's to change.")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


_allowed: dict[str, frozenset[str]] = {**ENVELOPES, **PLAIN}


def loads(content: bytes, *, buffers: Iterable[Any] = ()) -> Any:
    """Read a pickle; nothing that is not listed is imported or called."""
    before, _reading.now = reading(), True
    try:
        return _Unpickler(io.BytesIO(content), buffers=buffers).load()
    finally:
        _reading.now = before


def reading() -> bool:
    """Whether a message is being read: a function that it may name is not to be called by that."""
    return getattr(_reading, "now", False)


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
        vars(module)["pickle"] = restricted
