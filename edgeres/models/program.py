"""Programs that `torch.export.save` wrote (.pt2), read without running anything that a file may hold.

`torch.export.load` runs pickles (it asks `torch.load` for tensors alone and then, where that fails, for anything),
looks up any function that is named below `torch`, and evaluates the expressions of free sizes as Python. So what a file
names is read first, and held against what a network needs.
"""

import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeres.errors import InputError, MissingRuntime

OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|eq|ne|lt|le|gt|ge)")
EXPRESSION = re.compile(
    r"(\s|\d+|'?[su]\d+'?|[-+*/(),=]|Symbol|Integer|True|positive|nonnegative|integer|Add|Mul|Mod|FloorDiv|Max|Min)*"
)
STORED = re.compile(r"(weight|tensor)_\d+")


class Program:
    """A program: `model` as torch's exporter writes it in ONNX, and its outputs for images in torch."""

    def __init__(self, path: Path) -> None:
        """InputError where the file is damaged, or holds more than operators and tensors; MissingRuntime without
        onnxscript."""
        if find_spec("onnxscript") is None:
            raise MissingRuntime("a .pt2 file needs onnxscript; `pip install onnxscript`.")
        _inspect(path)
        try:
            with _trusting_nothing(), _silent():
                program = torch.export.load(path)
                exported = torch.onnx.export(program, dynamo=True, verbose=False)
        except Exception as error:  # a damaged or unknown program fails anywhere in torch
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{path} cannot be read ({reason}); save it again.") from None
        assert exported is not None
        self.model: onnx.ModelProto = exported.model_proto
        self.module = program.module()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.module(torch.from_numpy(images)).numpy())


def _inspect(path: Path) -> None:
    """InputError where a file names anything else than operators of ATen, plain expressions and plain tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            contents = {name: json.loads(archive.read(name)) for name in names}
    except (OSError, zipfile.BadZipFile, ValueError, KeyError):
        raise InputError(f"{path} is no program of torch.export; save it with `torch.export.save`.") from None
    for name, content in contents.items():
        for key, value in _strings(content):
            allowed = {"target": OPERATOR, "expr_str": EXPRESSION, "path_name": STORED}.get(key)
            if allowed is not None and not allowed.fullmatch(str(value)):
                raise InputError(
                    f"{path} is refused: {name} names {value!r}, which may run code; save a plain program."
                )
            if key == "use_pickle" and value:
                raise InputError(f"{path} is refused: {name} names a pickled object, which can run code; save it anew.")


def _strings(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON with its value, where that is no container."""
    stack = [content]
    while stack:
        current = stack.pop()
        if isinstance(current, Mapping):
            yield from ((key, value) for key, value in current.items() if not isinstance(value, Mapping | list))
            stack.extend(current.values())
        elif isinstance(current, list):
            stack.extend(current)


@contextmanager
def _trusting_nothing() -> Iterator[None]:
    """`torch.load` reads tensors alone whatever it is asked for, and nothing else reads pickles."""
    from torch.export.pt2_archive import _package

    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}))
        stack.enter_context(patch.object(_package, "pickle", None))
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Without torch's warnings of what it would do another day, and that torchvision, which is not used, is absent."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
