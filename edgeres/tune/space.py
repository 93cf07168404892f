"""What a candidate is, and which there are for a target on this machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeres import machine
from edgeres.quantization.schemes import suits
from edgeres.types import Precision, Target


@dataclass(frozen=True)
class Choice:
    """A file to run: `scheme` None is FP32; `keep` are layers in float, `called` so where they have a name."""

    scheme: str | None
    keep: tuple[str, ...] = ()
    called: str = ""

    @property
    def name(self) -> str:
        """As people say it: short, and another for every other choice."""
        return (self.scheme or "fp32") + (f" but {self.called or ' and '.join(self.keep)}" if self.keep else "")

    @property
    def precision(self) -> Precision:
        return Precision.INT8 if self.scheme else Precision.FP32


@dataclass(frozen=True)
class Candidate:
    """A choice and how the runtime runs it: `batch` None leaves it free, `threads` None is the runtime's default,
    `settings` are its own options by name."""

    choice: Choice
    batch: int | None = None
    threads: int | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        words = [self.choice.name]
        if self.batch:
            words.append(f"batch fixed at {self.batch}")
        if self.threads:
            words.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join([*words, *(f"{key}={value}" for key, value in self.settings)])


def choices(target: Target, layers: Sequence[str], features: Sequence[str]) -> list[Choice]:
    """The files worth a measurement, the runtime's own scheme first and FP32 last: `layers` are those of the network in
    order, `features` the CPU's."""
    schemes = {
        "onnxruntime": ["onnxruntime", "openvino"],
        "openvino": ["openvino", "onnxruntime"],
    }.get(target.backend, ["portable"])
    if target.backend == "onnxruntime":
        schemes = [*(one for one in ("onnxruntime-arm", "onnxruntime-vnni") if suits(one, features)), *schemes]
    own = Choice(schemes[0])
    ends = [(layers[0],), (layers[-1],), (layers[0], layers[-1])] if len(layers) > 1 else []
    return [
        own,
        *(replace(own, scheme=scheme) for scheme in schemes[1:]),
        *(replace(own, scheme=f"{own.scheme}{change}") for change in PLACEMENTS.get(target.backend, ())),
        *(replace(own, keep=keep) for keep in ends),
        *(replace(own, keep=keep, called=called) for called, keep in _stages(layers).items()),
        Choice(None),
    ]


def _stages(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The layers of each part of the network, as their names begin: layer1, layer2, ...; none where it has one part."""
    parts: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        stage, dot, _ = layer.partition(".")
        if dot:
            parts[stage] = (*parts.get(stage, ()), layer)
    return parts if len(parts) > 1 else {}


def combined(ways: Sequence[Candidate]) -> list[Candidate]:
    """The first, and what it makes together with each of the others where the two do not contradict each other."""
    best, *others = ways
    made = [best]
    for other in others:
        batches, threads = {best.batch, other.batch} - {None}, {best.threads, other.threads} - {None}
        settings = dict(sorted({*best.settings, *other.settings}))
        if len(batches) < 2 and len(threads) < 2 and len(settings) == len({*best.settings, *other.settings}):
            batch, count = next(iter(batches), None), next(iter(threads), None)
            made.append(Candidate(best.choice, batch, count, tuple(settings.items())))
    return list(dict.fromkeys(made))


def runs(target: Target, choice: Choice) -> Iterator[Candidate]:
    """How a runtime may run a file, its defaults first."""
    yield Candidate(choice)
    yield Candidate(choice, batch=1)
    cores = machine.cores()
    if target.device == "cpu":
        for threads in dict.fromkeys((cores, max(1, cores // 2), 1)):
            yield Candidate(choice, threads=threads)
    for setting in SETTINGS.get(str(target), ()):
        yield Candidate(choice, settings=(setting,))


PLACEMENTS = {
    "onnxruntime": ("-branch", "-shortcut"),
    "openvino": ("-branch", "-shortcut"),
}
"""Backend -> what its own scheme may do otherwise at the residual sums, see `schemes.find`."""
SETTINGS: Mapping[str, Sequence[tuple[str, str]]] = {
    "onnxruntime:cpu": (
        ("session.intra_op.allow_spinning", "0"),
        ("session.set_denormal_as_zero", "1"),
        ("graph_optimization_level", "extended"),
        ("execution_mode", "parallel"),
        ("enable_cpu_mem_arena", "0"),
        ("enable_mem_pattern", "0"),
    ),
    "openvino:cpu": (
        ("ENABLE_CPU_PINNING", "NO"),
        ("ENABLE_CPU_PINNING", "YES"),
        ("ENABLE_HYPER_THREADING", "NO"),
        ("INFERENCE_PRECISION_HINT", "bf16"),
        ("PERFORMANCE_HINT", "THROUGHPUT"),
        ("NUM_STREAMS", "1"),
    ),
}
"""Options of a runtime, by its own names, that can change how fast it runs."""
