"""How close each layer of an engine comes to what this machine can do in this runtime.

A layer cannot be faster than its arithmetic at the machine's peak, nor than its bytes at the bandwidth of memory:
attainable arithmetic is min(peak, intensity x bandwidth) (Williams, Waterman and Patterson, 2009, "Roofline", CACM 52).
Peaks are measured in the same runtime, see `edgeres.measure.peaks`; a layer that beats them all is itself the peak.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgeres import inspect, machine, measure, onnx_io, qdq
from edgeres.backends import LayerTime
from edgeres.errors import UsageError
from edgeres.measure import Measured, Subject, peaks
from edgeres.measure.peaks import Limits, Peak
from edgeres.qdq import Network

ROUNDS = 3
"""Processes in which the whole engine is timed, beside the one that profiles it."""


@dataclass(frozen=True)
class Layer:
    """One operation of the runtime in a call: `ms` it takes, `attainable` ms it could, for `macs` multiply-accumulates
    and `moved` bytes of all images of the call."""

    name: str
    precision: str
    kernel: str
    ms: float
    macs: int
    moved: int
    attainable: float

    @property
    def share(self) -> float:
        """Of what is attainable, 0 to 1."""
        return self.attainable / self.ms if self.ms else 1.0

    @property
    def lost(self) -> float:
        """Milliseconds above what is attainable."""
        return self.ms - self.attainable

    @property
    def intensity(self) -> float:
        """Multiply-accumulates a byte."""
        return self.macs / max(self.moved, 1)


@dataclass(frozen=True)
class Roofline:
    """`layers` in the order in which they run, of a call with `batch` images; `whole` is the engine timed without the
    runtime's profile."""

    layers: tuple[Layer, ...]
    limits: Limits
    whole: Measured
    batch: int

    @cached_property
    def attainable(self) -> float:
        """Milliseconds of a call whose layers all reach their limit, with nothing between them."""
        return sum(layer.attainable for layer in self.layers)

    @property
    def profiled(self) -> float:
        """Milliseconds of all layers."""
        return sum(layer.ms for layer in self.layers)

    @property
    def share(self) -> float:
        """Of the limit that the engine reaches, 0 to 1."""
        return self.attainable / self.whole.latency.p50

    @property
    def worst(self) -> list[Layer]:
        """What costs most above its limit first."""
        return sorted(self.layers, key=lambda layer: -layer.lost)


def steps(subject: Subject) -> int:
    """How many processes `roofline` takes."""
    return ROUNDS + 1 + peaks.processes(subject.target)


def roofline(subject: Subject, progress: Callable[[int], object] = lambda processes: None) -> Roofline:
    """Measure an ONNX file, the machine's limits for its target, and join them.

    UsageError where the file is a built engine, which does not tell its arithmetic; raises as `measure.profile`.
    """
    if subject.path.suffix != ".onnx":
        raise UsageError(
            f"{subject.path} does not tell its arithmetic; give --roofline the ONNX file that it was built from."
        )
    network = Network(onnx_io.verified(subject.path))
    subject = replace(subject, threads=subject.threads or machine.cores())
    (whole,) = measure.measure([subject], ROUNDS, progress)
    batch, times = measure.profile(subject)
    progress(1)
    limits = peaks.limits(subject.target, subject.threads, progress)
    return joined(network, times, limits, whole, batch)


def joined(network: Network, times: Sequence[LayerTime], limits: Limits, whole: Measured, batch: int) -> Roofline:
    """The runtime's layers with the arithmetic of the nodes that each of them does."""
    macs, weights = Counter[int](), Counter[int]()
    names: dict[int, str] = {}
    stored = {qdq.name(node): qdq.stored(weight) for node in network.layers if (weight := network.weight(node))}
    for name, run in inspect.hosts(network, [one.layer for one in times]).items():
        macs[id(run)] += batch * network.arithmetic.get(name, 0)
        weights[id(run)] += stored[name]
        names.setdefault(id(run), name)
    limits = replace(limits, peaks=_raised(limits.peaks, times, macs, names))
    layers = []
    for one in times:
        arithmetic, moved = macs[id(one.layer)], one.moved + weights[id(one.layer)]
        name = names.get(id(one.layer)) or one.layer.name
        layers.append(
            Layer(
                name,
                one.layer.precision,
                one.layer.kernel,
                one.ms,
                arithmetic,
                moved,
                min(one.ms, attainable(limits, one.layer.precision, arithmetic, moved)),
            )
        )
    return Roofline(tuple(layers), limits, whole, batch)


def attainable(limits: Limits, precision: str, macs: int, moved: int) -> float:
    """The milliseconds below which a layer cannot come; one of a precision that was not measured is held against the
    highest peak."""
    peak = limits.peaks.get(precision) or max(limits.peaks.values(), key=lambda one: one.rate)
    return 1e3 * max(macs / peak.rate, moved / limits.bandwidth(moved))


def _raised(
    known: Mapping[str, Peak], times: Sequence[LayerTime], macs: Mapping[int, int], names: Mapping[int, str]
) -> dict[str, Peak]:
    """The peaks, those of the engine's own layers among them: what was done can be done."""
    found = dict(known)
    for one in times:
        if id(one.layer) in names and one.ms > 0:
            peak = Peak(1e3 * macs[id(one.layer)] / one.ms, names[id(one.layer)])
            found[one.layer.precision] = max(found.get(one.layer.precision, peak), peak, key=lambda each: each.rate)
    return found
