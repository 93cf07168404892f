"""Runtimes. One file each, found by its name; a vendor's package is imported by its own file alone."""

from importlib import import_module

from edgeres.backends.base import Availability, Backend, Engine, LayerTime, RuntimeLayer
from edgeres.errors import UsageError
from edgeres.types import Target

__all__ = ["BACKENDS", "Availability", "Backend", "Engine", "LayerTime", "RuntimeLayer", "find"]

BACKENDS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt-rtx": "tensorrt",
    "tensorrt": "tensorrt",
}
"""The first half of a target -> the file in this folder that serves it."""


def find(target: Target) -> Backend:
    """The backend that serves a target, its runtime not imported yet; UsageError where there is none."""
    if target.backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise UsageError(f"target {target}: there is no backend {target.backend!r}; there are {known}.")
    backend: Backend = import_module(f"edgeres.backends.{BACKENDS[target.backend]}").backend(target.backend)
    return backend
