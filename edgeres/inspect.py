"""What of a network runs in INT8: the built engine, read back from the runtime, joined with the ONNX file."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onnx import NodeProto
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeres import backends, engines, lint, onnx_io, qdq, store
from edgeres.backends import RuntimeLayer
from edgeres.errors import BuildError
from edgeres.figures import MISSING, plain
from edgeres.lint import Finding
from edgeres.qdq import CONVERSIONS, Network
from edgeres.types import Target


@dataclass(frozen=True)
class Layer:
    """A convolution, the classifier, a residual sum or a pool, as the engine runs it.

    `precision` is int8, fp32, fp16, bf16, `not told` where the runtime does not, or `refused`; `kernel` is the
    runtime's own word; `within` names the layer that a sum or a pool is fused into. `weight_bytes` are those of the
    weights as the file stores them, `macs` the multiply-accumulates for one image, `share` their part of the whole
    (0 to 1): None where it has none or it is not known.
    """

    name: str
    operator: str
    precision: str
    kernel: str = ""
    within: str | None = None
    weight_bytes: int | None = None
    macs: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Inspection:
    """What a file is on a target. `refused` is the runtime's refusal, None where it takes the file; `findings` is
    None where nothing can be said, as there is no ONNX graph."""

    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...] | None
    versions: Mapping[str, str]
    refused: str | None = None

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one image."""
        return _total(self.layers)

    @property
    def int8_share(self) -> float | None:
        """The part of the arithmetic that runs in INT8, 0 to 1."""
        if self.refused or not self.macs:
            return None
        return sum(layer.macs or 0 for layer in self.layers if layer.precision == "int8") / self.macs

    @property
    def weight_bytes(self) -> int:
        return sum(layer.weight_bytes or 0 for layer in self.layers)


def inspect(path: Path, target: Target, source: Path | None = None) -> Inspection:
    """Compile an ONNX file for a target, or load an engine, and tell what it really computes, with what to mend.

    An engine is joined with `source`, the ONNX file that it was built from; without that neither its arithmetic nor
    what to mend is known. A file that the runtime refuses for a known reason is told, too. UsageError, InputError,
    MissingRuntime, BuildError as in `engines.load`.
    """
    backend = backends.find(target)
    versions = store.versions(*backend.packages)
    model = path if path.suffix == ".onnx" else source
    if model is None:
        return Inspection(_engine_layers(engines.inspect(path, target)), None, versions)
    network = Network(onnx_io.verified(model))
    best = backend.scheme(target)
    known = list(lint.rules(network, target, best))
    try:
        built = engines.inspect(path, target)
    except BuildError as error:
        if not any(finding.refused for finding in known):
            raise
        nodes = network.layers
        layers = [_layer(network, node, "refused") for node in nodes]
        return Inspection(_shared(layers), tuple(known), versions, str(error))
    found = hosts(network, built)
    sidecar = store.read_sidecar(model)
    given = sidecar.parameters.get("scheme") if sidecar and sidecar.kind == "quantized" else None
    features = backend.features(target)
    findings = [
        *lint.saturation(network, found, target, best, given, features),
        *lint.evidence(network, built, found, target, best, given, features),
        *known,
    ]
    return Inspection(_shared(_joined(network, built, found)), tuple(findings), versions)


def hosts(network: Network, built: Sequence[RuntimeLayer]) -> dict[str, RuntimeLayer]:
    """The runtime's layer that does the arithmetic of each convolution and classifier, by its name in the file."""
    return {qdq.name(node): run for node in network.layers if (run := _run(network, node, built))}


def _joined(network: Network, built: Sequence[RuntimeLayer], found: Mapping[str, RuntimeLayer]) -> Iterator[Layer]:
    """The layers, sums and pools in the order of the graph."""
    wanted = {qdq.name(node) for node in (*network.layers, *network.others)}
    by_run = {id(run): layer for layer, run in found.items()}
    for node in network.graph.node:
        label = qdq.name(node)
        if label not in wanted:
            continue
        run = found.get(label) if node.op_type in qdq.WEIGHTS else _other(network, node, built, found)
        made = _layer(network, node, run.precision if run else "not told", run.kernel if run else "")
        yield replace(made, within=by_run.get(id(run))) if node.op_type not in qdq.WEIGHTS else made


def _layer(network: Network, node: NodeProto, precision: str, kernel: str = "") -> Layer:
    weight = network.weight(node) if node.op_type in qdq.WEIGHTS else None
    label = qdq.name(node)
    size = None if weight is None else qdq.stored(weight) if network.owners[id(weight)] == label else 0
    return Layer(label, node.op_type, precision, kernel, None, size, network.arithmetic.get(label))


def _run(network: Network, node: NodeProto, built: Sequence[RuntimeLayer]) -> RuntimeLayer | None:
    """The runtime's layer that does a layer's arithmetic: by its weights, else by its bias or a name."""
    operator = "Conv" if node.op_type.endswith("Conv") else "Gemm"
    at = qdq.WEIGHTS[node.op_type]
    weight = network.weight(node)
    bias = network.constant(node.input[at + 1]) if len(node.input) == at + 2 else None
    constants = [one.name for one in (weight, bias) if one is not None]
    keys = [*constants, node.name, *node.output, *_activated(network, node)]
    # A small matrix product may be generated code, whose operator is not told.
    return _first(keys, [one for one in built if operator in one.operators]) or _first(
        keys, [one for one in built if not one.operators]
    )


def _other(
    network: Network, node: NodeProto, built: Sequence[RuntimeLayer], found: Mapping[str, RuntimeLayer]
) -> RuntimeLayer | None:
    """The runtime's layer that does a sum or a pool, maybe among other things."""
    able = [layer for layer in built if not set(layer.operators[:1]) & set(CONVERSIONS)]
    run = _first([node.name, *node.output, *_activated(network, node)], able)
    if run is None and node.op_type == "Add":
        sources = [source for given in node.input if (source := network.source(given))]
        fused = [found[qdq.name(source)] for source in sources if qdq.name(source) in found]
        run = next((layer for layer in fused if "Add" in layer.operators), None)
    return run


def _activated(network: Network, node: NodeProto) -> list[str]:
    """What a node's ReLU gives: fused, the two may go by the ReLU's name."""
    return [one.output[0] for one in network.consumers.get(node.output[0], []) if one.op_type == "Relu"]


def _first(keys: Sequence[str], layers: Sequence[RuntimeLayer]) -> RuntimeLayer | None:
    return next((layer for key in keys if key for layer in layers if key in layer.origins), None)


def _shared(layers: Iterator[Layer] | Sequence[Layer]) -> tuple[Layer, ...]:
    made = tuple(layers)
    total = _total(made)
    return tuple(replace(layer, share=layer.macs / total) if total and layer.macs else layer for layer in made)


def _total(layers: Sequence[Layer]) -> int | None:
    """Multiply-accumulates of all layers; None unless each of them is known."""
    known = [layer.macs for layer in layers if layer.operator in qdq.WEIGHTS]
    return sum(known) if known and None not in known else None  # type: ignore[arg-type]


def _engine_layers(built: Sequence[RuntimeLayer]) -> tuple[Layer, ...]:
    """The layers of an engine without its ONNX file, named as well as the runtime allows."""
    made = []
    for layer in built:
        operator = next(iter(layer.operators), "")
        if operator in ("Conv", "Gemm", "Add", *qdq.POOLS):
            weight = next((one for one in layer.origins if one.endswith((".weight", ".weight.q"))), "")
            label = weight.removesuffix(".q").removesuffix(".weight") or next(iter(layer.origins), layer.name)
            made.append(Layer(label, operator, layer.precision, layer.kernel, weight_bytes=layer.weight_bytes))
    return tuple(made)


def to_json(inspection: Inspection) -> dict[str, object]:
    """Everything as plain JSON; what is not available is null."""
    whole = {"macs": inspection.macs, "int8_share": inspection.int8_share, "weight_bytes": inspection.weight_bytes}
    return {**asdict(inspection), **whole}


def show(inspection: Inspection, console: Console) -> None:
    """Print the layers as a table that folds on 80 columns, the totals and the findings."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("layer", overflow="fold", min_width=12)
    grid.add_column("runs in", no_wrap=True)
    grid.add_column("as", overflow="fold", min_width=12)
    known = any(layer.macs for layer in inspection.layers)  # not so of an engine alone
    headings = ("weights", "MACs", "share") if known else ("weights",)
    for heading in headings:
        grid.add_column(heading, justify="right", overflow="fold")
    for layer in inspection.layers:
        weighted = layer.operator in qdq.WEIGHTS
        sizes = [_bytes(layer.weight_bytes), _count(layer.macs), _percent(layer.share)] if weighted else ["—"] * 3
        kernel = f"in {layer.within}" if layer.within else layer.kernel
        cells = [layer.name, layer.precision, kernel or "", *sizes[: len(headings)]]
        grid.add_row(*(Text(plain(cell)) for cell in cells), style="" if weighted else "dim")
    console.print(grid)
    console.print()
    for line in totals(inspection):
        console.print(Text(plain(line)))
    groups: dict[tuple[str, str, str], list[str]] = {}
    for finding in inspection.findings or ():
        groups.setdefault((finding.problem, finding.advice, finding.evidence), []).append(finding.node)
    for (problem, advice, evidence), nodes in groups.items():
        source = " (a rule, not seen in the engine)" if evidence == "rule" and not inspection.refused else ""
        console.print()
        for text, indent in ((f"{', '.join(nodes)}:", ""), (f"{problem}{source}; {advice}.", "    ")):
            lines = textwrap.wrap(plain(text), max(console.width - len(indent), 20), break_on_hyphens=False)
            console.print(Text(textwrap.indent("\n".join(lines), indent)))


def totals(inspection: Inspection) -> Iterator[str]:
    """What the whole comes to, in words."""
    weighted = [layer for layer in inspection.layers if layer.operator in qdq.WEIGHTS]
    whole = [layer for layer in weighted if layer.precision == "int8"]
    if inspection.refused:
        yield f"Refused: {inspection.refused}"
    else:
        share = _percent(inspection.int8_share)
        yield f"In INT8: {len(whole)} of {len(weighted)} layers, share of the arithmetic {share}."
    yield f"Multiply-accumulates an image: {_count(inspection.macs)}; weights: {_bytes(inspection.weight_bytes)}."
    if inspection.findings is None:
        yield "Lint: not available for a built engine; inspect the ONNX file that it was built from."
    elif not inspection.findings:
        yield "Lint: nothing found."


def _bytes(size: int | None) -> str:
    if size is None:
        return MISSING
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _count(number: int | None) -> str:
    if number is None:
        return MISSING
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"
