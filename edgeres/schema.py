"""The report: what was made, on which machine, how fast and how right. One JSON document; all else is rendered from it.

What can be derived (speed-up, drop) is not stored: see `edgeres.report.table`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeres.types import Precision, Task

SCHEMA: Literal["edgeres.report/2"] = "edgeres.report/2"


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
"""At most what JSON's readers hold exactly."""
Positive = Annotated[int, Field(ge=1, le=1 << 53)]


class Part(BaseModel):
    """Frozen, and strict about names, NaN and infinity: a report that does not validate is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Throughput(Part):
    """Images a second with `streams` calls under way at once, `batch` images each."""

    batch: Positive
    streams: Positive
    images_per_second: float


class Latency(Part):
    """Host-to-host milliseconds per call, one engine in a process of its own; percentiles come from `samples`."""

    p50: float
    p50_interval: tuple[float, float] | None = None
    """95 % bootstrap interval of the median, over processes and over blocks of neighbouring calls."""
    p90: float
    p99: float
    p999: float | None = None
    """None where fewer than 1,000 calls were timed."""
    device_p50: float | None = None
    """Of the device alone, without the way to it and back: what the runtime tells, or of calls with all in place; None
    where there is neither."""
    batch: Positive
    throughput: float
    """Images a second, one call after the other."""
    samples: list[float]
    """Every timed call, milliseconds, in order."""
    rounds: list[Count] = []
    """How many of the samples each process gave, in order."""
    throughputs: list[Throughput] = []
    peak_rss_mb: float | None = None
    """Largest resident memory of a measuring process, MB; None where the system does not tell."""
    energy_mj: float | None = None
    """Millijoules an image, of the processor or the device; None where the machine has no meter."""
    warmup: Count
    """Calls made before the first that counts."""
    stable: bool
    notes: list[str] = []
    """What makes the figures doubtful, in plain words."""


class Flip(Part):
    """An image whose top-1 differs from FP32's; class names where the model has them, else indices."""

    name: str
    label: str
    reference: str
    """What FP32 says."""
    predicted: str
    thumbnail: str | None = None
    """A small JPEG, base64."""


class McNemar(Part):
    """Of INT8 against FP32 on the same images: those that only FP32 had right, those that only INT8 has, and the exact
    two-sided probability of a difference as large where neither is better."""

    lost: Count
    gained: Count
    p: Share


class ClassAccuracy(Part):
    """Top-1 of the images of one class, and of FP32 on them (None for the reference itself)."""

    name: str
    images: Positive
    top1: Share
    reference: Share | None = None


class Accuracy(Part):
    """On `images` labelled images; shares are 0 to 1; intervals are 95 %, Wilson."""

    images: Positive
    dataset: str
    """Digest of the image set."""
    top1: Share
    top1_interval: tuple[Share, Share]
    top5: Share | None = None
    """None where the model has five classes or fewer."""
    agreement: Share | None = None
    """Share of images with the same top-1 as the FP32 model; None for the reference itself."""
    agreement_interval: tuple[Share, Share] | None = None
    mcnemar: McNemar | None = None
    flipped: list[Flip] = []
    classes: list[ClassAccuracy] = []
    images_per_second: float | None = None
    """Decoding and inference overlapped, as evaluated."""

    def same_images(self, other: "Accuracy") -> bool:
        """Whether the two can be subtracted: the same set, all of it in both."""
        return self.dataset == other.dataset and self.images == other.images


class Score(Part):
    """One figure of accuracy of a task other than one-class classification, on `images` images."""

    name: str
    """As the field calls it: mAP, MAE, RMSE, cosine, recall@1."""
    value: float
    unit: Literal["share", "dB", ""] = ""
    """`share`: 0 to 1, told in percent; empty: the labels' own unit, or none."""
    reference: float | None = None
    """FP32's on the same images; None for FP32 itself, and where `value` itself tells a difference to FP32."""
    interval: tuple[float, float] | None = None
    """95 %, bootstrap over the images: of `value - reference`, paired, or of `value` where there is no reference."""
    images: Positive
    dataset: str
    """Digest of the image set."""
    higher_is_better: bool = True

    def same_images(self, other: "Score") -> bool:
        """Whether the two can be subtracted: the same figure of the same set, all of it in both."""
        return (self.name, self.dataset, self.images) == (other.name, other.dataset, other.images)


class LayerPrecision(Part):
    """One operation of the built engine, as its runtime tells it: see `edgeres.inspect`."""

    name: str
    precision: str
    kernel: str
    macs: Count | None = None
    """Multiply-accumulates for one image; None where it has none or they are not known."""
    weight_bytes: Count | None = None


class LayerError(Part):
    """The error of one quantized tensor against FP32 on real images: see `edgeres.quantization.diagnose`."""

    name: str
    role: str
    sqnr_db: float


class Cell(Part):
    """One target at one precision, on one machine."""

    target: str
    device: str | None = None
    """Where it was measured, a key of `Report.devices`; None: on the machine of the report."""
    precision: Precision
    scheme: str | None = None
    status: Literal["measured", "built", "failed"]
    """`built`: the engine is there, this machine cannot run it."""
    message: str = ""
    """Why it is not measured, and what to do next."""
    engine: str | None = None
    """File name below the run folder."""
    size: Count | None = None
    """Bytes on disk."""
    digest: str | None = None
    """SHA-256 of the engine."""
    properties: dict[str, str] = {}
    """What the runtime says it runs: version, device, threads, precision."""
    layers: list[LayerPrecision] = []
    """Of INT8 engines, in the order of the network; empty where the runtime does not tell."""
    errors: list[LayerError] = []
    """Of INT8 engines, in the order of the network, the logits last."""
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    """Of classification alone."""
    scores: list[Score] = []
    """Of every other task, the headline first."""

    @property
    def place(self) -> str:
        """What is measured, and where: `openvino:cpu`, `openvino:cpu@line3`."""
        return f"{self.target}@{self.device}" if self.device else self.target


class Machine(Part):
    """Where it was measured. Latencies of two machines with different `identity` are never compared."""

    system: str
    architecture: str
    cpu: str
    cores: Count
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
    task: Task = "classification"
    classes: Count
    """How many outputs: classes, labels, values, dimensions of a vector."""
    digest: str
    """SHA-256 of the FP32 ONNX file."""
    parity: dict[str, float]
    """`images`, `largest`, `relative` and, of classification, `agreement`: see `edgeres.export.Parity`."""


class Report(Part):
    """A whole run."""

    schema_version: Literal["edgeres.report/2"] = SCHEMA
    name: str
    created: str
    """UTC, ISO 8601."""
    machine: Machine
    devices: dict[str, Machine] = {}
    """The other machines that cells were measured on, by name."""
    model: Model
    calibration: dict[str, Any]
    """`images`, `dataset` (digest), `method`."""
    cells: list[Cell]
    rules: dict[str, float | str] = {}
    """What `edgeres check` holds the report to; from the recipe's [check]."""
