"""The report: what was made, on which machine, how fast and how right. One JSON document; all else is rendered from it.

What can be derived (speed-up, drop) is not stored: see `edgeres.report.table`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeres.types import Precision

SCHEMA: Literal["edgeres.report/1"] = "edgeres.report/1"


class Part(BaseModel):
    """Frozen, and strict about names, NaN and infinity: a report that does not validate is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Latency(Part):
    """Host-to-host milliseconds per call, one engine in a process of its own; percentiles come from `samples`."""

    p50: float
    p90: float
    p99: float
    batch: int = Field(ge=1)
    throughput: float
    """Images a second, one call after the other."""
    samples: list[float]
    """Every timed call, milliseconds, in order."""
    warmup: int
    """Calls made before the first that counts."""
    stable: bool
    notes: list[str] = []
    """What makes the figures doubtful, in plain words."""


class Accuracy(Part):
    """On `images` labelled images; shares are 0 to 1; intervals are 95 %, Wilson."""

    images: int = Field(ge=1)
    dataset: str
    """Digest of the image set."""
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None = None
    """None where the model has five classes or fewer."""
    agreement: float | None = None
    """Share of images with the same top-1 as the FP32 model; None for the reference itself."""
    flipped: list[str] = []
    """The images whose top-1 differs from FP32's."""


class Cell(Part):
    """One target at one precision."""

    target: str
    precision: Precision
    scheme: str | None = None
    status: Literal["measured", "built", "failed"]
    """`built`: the engine is there, this machine cannot run it."""
    message: str = ""
    """Why it is not measured, and what to do next."""
    engine: str | None = None
    """File name below the run folder."""
    size: int | None = None
    """Bytes on disk."""
    digest: str | None = None
    """SHA-256 of the engine."""
    properties: dict[str, str] = {}
    """What the runtime says it runs: version, device, threads, precision."""
    latency: Latency | None = None
    accuracy: Accuracy | None = None


class Machine(Part):
    """Where it was measured. Latencies of two machines with different `identity` are never compared."""

    system: str
    architecture: str
    cpu: str
    cores: int
    memory_gib: float
    features: list[str] = []
    """Instruction sets that decide how INT8 runs: avx2, avx512_vnni, avx_vnni, amx_int8, asimddp, i8mm."""
    python: str
    packages: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """What two machines must share for their latencies to be comparable."""
        return f"{self.architecture} {self.cpu} x{self.cores} {' '.join(sorted(self.features))}"


class Model(Part):
    """The exported network and how it was shown to be the checkpoint's."""

    arch: str
    classes: int
    digest: str
    """SHA-256 of the FP32 ONNX file."""
    parity: dict[str, float]
    """`images`, `largest`, `relative`, `agreement`: see `edgeres.export.Parity`."""


class Report(Part):
    """A whole run."""

    schema_version: Literal["edgeres.report/1"] = SCHEMA
    name: str
    created: str
    """UTC, ISO 8601."""
    machine: Machine
    model: Model
    calibration: dict[str, Any]
    """`images`, `dataset` (digest), `method`."""
    cells: list[Cell]
    rules: dict[str, float | str] = {}
    """What `edgeres check` holds the report to; from the recipe's [check]."""
