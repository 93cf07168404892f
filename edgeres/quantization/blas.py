"""One thread for the matrix products of NumPy: OpenBLAS sums in an order that depends on how many there are."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")
"""As NumPy's wheels from 2.0 call it, those before, and distributions."""


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts; nothing changes where NumPy was built with another library."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    name = next((name for name in NAMES if hasattr(library, name.format("set"))), None)
    if name is None:
        yield
        return
    limit, before = getattr(library, name.format("set")), getattr(library, name.format("get"))()
    limit(1)
    try:
        yield
    finally:
        limit(before)
