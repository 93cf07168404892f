"""What a candidate is, and which there are for a target on this machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeres import machine
from edgeres.types import Precision, Target

VNNI = ("avx512_vnni", "avx_vnni")


@dataclass(frozen=True)
class Choice:
    """A file to run: `scheme` None is FP32; `keep` are layers in float."""

    scheme: str | None
    keep: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As people say it: short, and another for every other choice."""
        return (self.scheme or "fp32") + (f" but {' and '.join(self.keep)}" if self.keep else "")

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
    if any(one in features for one in VNNI) and target.backend == "onnxruntime":
        schemes.insert(0, "onnxruntime-vnni")
    if "asimd" in features and target.backend == "onnxruntime":
        schemes.insert(0, "onnxruntime-arm")
    own = Choice(schemes[0])
    ends = [(layers[0],), (layers[-1],), (layers[0], layers[-1])] if len(layers) > 1 else []
    return [
        own,
        *(replace(own, scheme=scheme) for scheme in schemes[1:]),
        *(replace(own, keep=keep) for keep in ends),
        Choice(None),
    ]


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


SETTINGS: Mapping[str, Sequence[tuple[str, str]]] = {
    "onnxruntime:cpu": (
        ("session.intra_op.allow_spinning", "0"),
        ("session.set_denormal_as_zero", "1"),
        ("graph_optimization_level", "extended"),
    ),
    "openvino:cpu": (
        ("ENABLE_CPU_PINNING", "NO"),
        ("ENABLE_CPU_PINNING", "YES"),
        ("ENABLE_HYPER_THREADING", "NO"),
        ("INFERENCE_PRECISION_HINT", "bf16"),
    ),
}
"""Options of a runtime, by its own names, that can change how fast it runs."""
