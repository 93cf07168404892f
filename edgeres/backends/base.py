"""What a runtime must offer: say what it can do here, build an engine from ONNX, and run one.

`run` checks the request once for all backends, `_run` does the work.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres import machine
from edgeres.errors import InputError, UsageError
from edgeres.types import Images, Precision, Settings, Target

NONE: Settings = {}


@dataclass(frozen=True)
class Availability:
    """What this machine can do for a target, and in `note` how to get what is missing or what is there."""

    target: Target
    builds: bool
    runs: bool
    note: str


PRECISIONS = {"int8": "int8", "uint8": "int8", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Type of the values -> the arithmetic that it means."""


@dataclass(frozen=True)
class RuntimeLayer:
    """One operation of a built engine, as its runtime tells it.

    `operators` are the ONNX operators that it does, `("Conv", "Add")` where a residual sum is fused into it, and
    `kernel` is the runtime's own word for how. `reads` is the type that it computes with, that of its first input, in
    numpy's spelling; "" where the runtime does not tell. `origins` are the names of the nodes, tensors and constants
    of the ONNX file that it was made from; `weight_bytes` is the size of the weights that it holds, None where the
    runtime does not tell.
    """

    name: str
    operators: tuple[str, ...]
    kernel: str
    reads: str
    origins: tuple[str, ...]
    weight_bytes: int | None = None

    @property
    def precision(self) -> str:
        """The arithmetic: int8, fp32, fp16, bf16 or, for another type, its name."""
        return PRECISIONS.get(self.reads, self.reads) or "not told"


@dataclass(frozen=True)
class LayerTime:
    """What `layer` takes of a call: `ms` milliseconds, the median of many calls, and `least`, that of the quickest; it
    reads and writes `moved` bytes of activations."""

    layer: RuntimeLayer
    ms: float
    least: float
    moved: int


WARM_CALLS, PROFILED_CALLS = 10, 50
"""Calls of a profile: those that do not count, and those whose median is taken."""


class Engine(ABC):
    """A loaded model on its device, for one input and float32 outputs."""

    input_shape: tuple[int | None, int, int, int]
    """(N, 3, H, W), of frames (N, H, W, 3); None where the batch is free."""

    input_type: str = "float32"
    """The type of the input in numpy's spelling: uint8 where the engine takes frames."""

    outputs: tuple[str, ...]
    """The names of what `maps` gives, in order."""

    properties: Mapping[str, str]
    """What really runs, read back from the runtime: `version`, `device`, `threads`, `precision`, ..."""

    streams: int = 1
    """Calls that `stream` has under way at once."""

    def run(self, images: Images) -> NDArray[np.float32]:
        """The first output, logits (N, classes) of a classifier; as `maps`, all of which are brought to the host."""
        return self.maps(images)[0]

    def maps(self, images: Images) -> list[NDArray[np.float32]]:
        """All outputs, host to host; InputError where the images do not fit the engine."""
        wanted = self.input_shape
        fits = images.ndim == 4 and all(w is None or w == got for w, got in zip(wanted, images.shape, strict=True))
        if not fits or images.dtype != self.input_type:
            shown = tuple("N" if side is None else side for side in wanted)
            raise InputError(
                f"the engine takes {self.input_type} {shown}, the images are {images.dtype} {images.shape}; "
                "export the model with the size and batch you need."
            )
        return self._run(images)

    def stream(self, batches: Iterable[Images]) -> Iterator[NDArray[np.float32]]:
        """The first output of many batches, in their order; some runtimes have several under way at once."""
        return map(self.run, batches)

    def beside(self) -> "Engine":
        """This engine for a second caller, whose `run` may go on at the same time as this one's, on the same weights.

        Only where `streams` is more than one.
        """
        return self

    def device_ms(self) -> float | None:
        """Milliseconds of the last `run` inside the runtime or on its device; None where it does not tell."""
        return None

    def in_place(self, images: Images) -> Callable[[], object] | None:
        """Calls the engine with its input and outputs in place, where `device_ms` does not tell what that takes."""
        return None

    @abstractmethod
    def _run(self, images: Images) -> list[NDArray[np.float32]]: ...


class Backend(ABC):
    """One runtime. Methods import the vendor's package when called, never before."""

    name: str
    suffix: str
    """File name ending of its engines."""
    packages: tuple[str, ...]
    """Distributions whose versions decide what `build` writes: they are part of an engine's key."""
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.INT8)
    """What a recipe measures where it does not say: the baseline of its users first."""
    unsigned: bool = True
    """Whether it computes with UINT8, too."""

    @abstractmethod
    def available(self) -> list[Availability]:
        """Every target of this runtime that a user could ask for, and what this machine can do for it."""

    @abstractmethod
    def scheme(self, target: Target, architecture: str = "") -> str:
        """The name of the quantization scheme that is best for a target on a CPU of an architecture, as Python's
        `platform.machine` says it; without one on that of this machine."""

    def features(self, target: Target) -> list[str]:
        """Those of `machine.FEATURES` that the CPU of a target has."""
        return machine.features()

    def hardware(self, target: Target) -> str:
        """What of this machine an engine built here is bound to and the target does not name; "" for nothing. The
        engine is loaded where it is the same."""
        return ""

    @abstractmethod
    def build(self, model: Path, target: Target, out: Path, settings: Settings = NONE) -> None:
        """Write the engine of an ONNX model; MissingRuntime, UsageError for an unknown device, BuildError.

        `settings` are the runtime's own options, by its names; UsageError where it takes none.
        """

    @abstractmethod
    def load(
        self,
        path: Path,
        target: Target,
        threads: int | None = None,
        *,
        streams: int = 1,
        bf16: bool = False,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> Engine:
        """Load an engine, or an ONNX file, which is then compiled in memory. Digests were verified by the caller.
        `content` are the bytes that were, where the caller kept them: they are loaded, not the file once more.

        `threads` None leaves the runtime's own default. They are shared among `streams`, where the runtime can have
        several calls under way: `Engine.streams` says; 0 asks for as many as give the most images a second.
        `bf16` admits bfloat16 in place of FP32 where the device has it.
        `settings`, MissingRuntime, BuildError, UsageError as in `build`.
        """

    @abstractmethod
    def inspect(
        self, path: Path, target: Target, settings: Settings = NONE, content: bytes | None = None
    ) -> list[RuntimeLayer]:
        """The operations of an engine, or of an ONNX file once it is compiled, in order, read back from the runtime.

        `content` as in `load`. MissingRuntime, BuildError, UsageError as in `build`, and UsageError
        where the runtime keeps its operations to itself.
        """

    def profile(
        self,
        path: Path,
        target: Target,
        given: Callable[[Engine], Images],
        threads: int | None = None,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> list[LayerTime]:
        """How long each operation takes of a call with the images `given` to the engine, in order, as the runtime
        itself clocks it.

        `content` as in `load`. Raises as `load`; UsageError where the runtime has no clock for it here.
        """
        raise UsageError(
            f"{self.name} does not tell here how long each layer takes; profile on onnxruntime or openvino."
        )
