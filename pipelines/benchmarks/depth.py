"""How the time and the memory of `edgeres export`, `calibrate` and `quantize` grow with a network's depth.

    python pipelines/benchmarks/depth.py [--only cifar_resnet20,cifar_resnet1202] [--svg FILE] [--json FILE]

CIFAR ResNets with identity shortcuts and ImageNet ResNets, with seeded random weights, on the four photographs that
come with edgeres; each command is a process of its own, from start to exit. Prints Markdown; the picture shows seconds
and peak memory over the layers.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cost import Cost, run
from tools import versions

from edgeres import machine
from edgeres.report.svg import line, text

CIFAR, IMAGENET = (20, 56, 110, 290, 590, 1202), (18, 34, 50, 101, 152)
NAMES = [*(f"cifar_resnet{layers}" for layers in CIFAR), *(f"resnet{layers}" for layers in IMAGENET)]
STEPS = ("export", "calibrate", "quantize")
SAMPLES = Path(__file__).parents[2] / "edgeres" / "images"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 440, 250, 46, 34, 26
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".grid{stroke:#ddd}.line{fill:none;stroke:#0969da;stroke-width:1.5}circle{fill:#0969da}"
)


@dataclass(frozen=True)
class Line:
    """What one network costs, command by command."""

    network: str
    costs: dict[str, Cost]

    @property
    def layers(self) -> int:
        return int(re.findall(r"\d+", self.network)[-1])

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.costs.values())

    @property
    def peak(self) -> float:
        return max(cost.peak_gb for cost in self.costs.values())


def command(arguments: Sequence[str]) -> None:
    """`edgeres ARGUMENTS`, with the depths that only this script measures in the table."""
    from edgeres.cli import main as edgeres
    from edgeres.models.architectures import ARCHITECTURES, Architecture

    for layers in CIFAR:
        row = Architecture("basic", ((layers - 2) // 6,) * 3, stem="cifar", shortcut="pad", width=16, size=32)
        ARCHITECTURES.setdefault(f"cifar_resnet{layers}", row)
    if arguments[0] == "random":
        from networks import save

        from edgeres.data import open_images

        save(arguments[1], 10, open_images(SAMPLES), Path(arguments[2]))
        return
    raise SystemExit(edgeres(list(arguments)))


def measured(name: str, folder: Path) -> Line:
    """The three commands in turn."""
    weights, model, statistics = (folder / f"{name}{suffix}" for suffix in (".pth", ".onnx", ".stats"))
    run([__file__, "--command", "random", name, weights])
    arguments: dict[str, list[str | Path]] = {
        "export": ["--weights", weights, "--arch", name, "--out", model],
        "calibrate": [model, "--data", SAMPLES, "--out", statistics],
        "quantize": [model, "--stats", statistics, "--scheme", "openvino", "--out", folder / f"{name}.int8.onnx"],
    }
    costs = {step: run([__file__, "--command", step, *arguments[step]]) for step in STEPS}
    for step, cost in costs.items():
        print(f"{name}, {step}: {cost}", file=sys.stderr, flush=True)
        if cost.failed:
            raise SystemExit(f"{name}, {step}: {cost.failed}")
    return Line(name, costs)


def table(lines: Sequence[Line]) -> str:
    """Markdown."""
    heads = [f"{step} {what}" for step in STEPS for what in ("s", "GB")]
    rows = []
    for one in lines:
        cells = [f"{cost.seconds:.1f} | {cost.peak_gb:.2f}" for cost in one.costs.values()]
        rows.append(f"| {one.network} | {' | '.join(cells)} | {one.seconds:.1f} | {one.peak:.2f} |")
    head = ["network", *heads, "together s", "peak GB"]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def picture(lines: Sequence[Line]) -> str:
    """Seconds and gigabytes over the layers: one curve for each family of networks in each of four frames."""
    families = [[one for one in lines if one.network.startswith(kind)] for kind in ("cifar_", "resnet")]
    frames = []
    for row, family in enumerate(filter(None, families)):
        named = "CIFAR ResNets" if family[0].network.startswith("cifar") else "ImageNet ResNets"
        for column, (title, values) in enumerate(
            [("seconds", [one.seconds for one in family]), ("peak GB", [one.peak for one in family])]
        ):
            drawn = _frame(f"{named}: {title}", [one.layers for one in family], values)
            frames.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">{drawn}</g>')
    size = f"0 0 {2 * WIDTH} {HEIGHT * len(list(filter(None, families)))}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img"><style>{STYLE}</style>'
        f"<title>What export, calibrate and quantize cost by depth</title>{''.join(frames)}</svg>\n"
    )


def _frame(title: str, layers: Sequence[int], values: Sequence[float]) -> str:
    most, top = max(layers), max(values)
    right, floor = WIDTH - 16, HEIGHT - BOTTOM
    places = [
        (LEFT + (right - LEFT) * count / most, floor - (floor - TOP) * value / top)
        for count, value in zip(layers, values, strict=True)
    ]
    drawn = [text(LEFT, 16, title, "title")]
    for share in (0, 0.5, 1):
        down, across = floor - (floor - TOP) * share, LEFT + (right - LEFT) * share
        drawn.append(line("grid", (LEFT, down), (right, down)))
        drawn.append(text(LEFT - 6, down + 4, f"{top * share:.3g}", "end"))
        drawn.append(text(across, floor + 18, f"{most * share:.0f}", "end" if share == 1 else "middle"))
    drawn.append(f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
    drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return "".join(drawn)


def main() -> None:
    if sys.argv[1:2] == ["--command"]:
        command(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of networks, with commas")
    parser.add_argument("--svg", type=Path, help="draw the picture")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="edgeres-depth-") as folder:
        lines = [measured(name, Path(folder)) for name in (options.only.split(",") if options.only else NAMES)]
    here = machine.describe()
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}\n")
    print(table(lines), flush=True)
    if options.svg:
        options.svg.write_text(picture(lines), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
