"""Programs that `torch.export.save` wrote (.pt2), read without running anything that a file may hold.

torch runs pickles (it asks `torch.load` for tensors alone and then, where that fails, for anything), loads libraries of
AOTInductor, looks up any function that is named below `torch`, makes Python source of names and guards, and evaluates
the expressions of free sizes. So every member and every string of a file is read first, by the zip reader that torch
will use, and held against what `torch.export.save` writes of a network.
"""

import json
import logging
import os
import re
import warnings
import zipfile
import zlib
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

from edgeres.errors import EdgeresError, InputError, MissingRuntime
from edgeres.models import pickled

MEMBER = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# In each, no two alternatives begin alike, so that matching takes linear time.
EXPRESSION = (
    r"(?![\s\S]*\*\*)"
    r"(?:[-+*/(),='\s\d]|[su](?=\d)|Symbol|Integer|True|positive|nonnegative|integer|Add|FloorDiv|M(?:ul|od|ax|in))*"
)
GUARD = r"(?![\s\S]*\*\*)(?:[-+*/%<>=!()\s\d]|L(?:\['\w+'\]|\[\d+\])+\.size\(\)\[\d+\]|not|and|or|m(?:ax|in))*"
NAME = re.compile(r"[-\w.]*")
ALLOWED = {
    key: re.compile(pattern)
    for key, pattern in {
        "target": r"torch\.ops\.aten\.(?!from_file\.)\w+\.\w+"
        r"|_operator\.(getitem|add|sub|mul|floordiv|mod|eq|ne|lt|le|gt|ge)",
        "expr_str": EXPRESSION,
        "guards_code": GUARD,
        "path_name": r"(weight|tensor)_\d+",
        "type": r"(cpu|cuda|mps|xpu)|builtins\.(tuple|list|dict)",
        "context": r"null|\[[-\w., \"]*\]",
    }.items()
}
"""What a string may be, by its key; others are a NAME."""
TEXT = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "torch_version", "as_string"}
"""Told to people, or the value of an operator's argument."""


class Program:
    """A program: `model` as torch's exporter writes it in ONNX, and its outputs for images in torch."""

    def __init__(self, path: Path) -> None:
        """InputError where the file is damaged, or holds more than operators and tensors; MissingRuntime without
        onnxscript, and where torch is older than the format that is read here."""
        if find_spec("onnxscript") is None:
            raise MissingRuntime("a .pt2 file needs onnxscript; `pip install onnxscript`.")
        if find_spec("torch.export.pt2_archive") is None:
            raise MissingRuntime(f"a .pt2 file needs a newer torch than {torch.__version__}; `pip install -U torch`.")
        with _reading(path):
            program = load(path)
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
        assert exported is not None
        self.model: onnx.ModelProto = exported.model_proto
        self.module = program.module()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.module(torch.from_numpy(images)).numpy())


def load(path: Path) -> torch.export.ExportedProgram:
    """InputError as `Program`."""
    from torch.export.pt2_archive._package import load_pt2

    _inspect(path)
    with _reading(path):
        # `torch.export.load` would try an older format next, with another zip reader.
        return load_pt2(str(path)).exported_programs["model"]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A damaged or unknown program fails anywhere in torch."""
    try:
        with _trusting_nothing(), _silent():
            yield
    except EdgeresError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}); save it again.") from None


def _inspect(path: Path) -> None:
    """InputError where a file holds anything else than `torch.export.save` writes of operators of ATen, plain
    expressions and plain tensors."""
    try:
        pickled.inspect(path)
        reader = torch._C.PyTorchFileReader(str(path))
        members = reader.get_all_records()
        strings = [
            (name, key, value)
            for name in members
            if name.endswith(".json")
            for key, value in _strings(json.loads(reader.get_record(name)))
        ]
    except (OSError, RuntimeError, ValueError, IndexError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path} is no program of torch.export; save it with `torch.export.save`.") from None
    for member in members:
        if not MEMBER.fullmatch(member):
            raise InputError(f"{path} is refused: it names {member!r}, which may hold code; save a plain program.")
    for name, key, value in strings:
        if key == "use_pickle" and value:
            raise InputError(f"{path} is refused: {name} names a pickled object, which can run code; save it anew.")
        if key not in TEXT and isinstance(value, str) and not ALLOWED.get(key, NAME).fullmatch(value):
            raise InputError(
                f"{path} is refused: {name} names {value[:80]!r} as {key}, which may run code; save a plain program."
            )


def _strings(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON, as ("key", it), and every value that is no container with the key it stands below."""
    stack = [("", content)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            yield from (("key", name) for name in value)
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)
        elif key in ("in_spec", "out_spec") and isinstance(value, str):
            stack.append(("", json.loads(value)))
        else:
            yield key, value


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
