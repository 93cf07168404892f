"""The memory that `edgeres calibrate` and `edgeres quantize --level balanced` take as the number of images grows.

    python pipelines/benchmarks/memory.py MODEL.onnx PHOTOS [--counts 64,512,2048] [--deep 64]

Where there are fewer photos than a count, they are repeated under other names. Then a ResNet-152 with seeded random
weights, on `--deep` photos (0 leaves it out). Last, whether the statistics of the same photos in another order are the
same, byte for byte: their names are permuted, and edgeres reads in the order of the names. Prints Markdown.
"""

import argparse
import json
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cost import Cost, run
from tools import first, versions

from edgeres import disk, machine, onnx_io

SEED = 152
CLASSES = 1000


@dataclass(frozen=True)
class Line:
    """What one network on one number of photos costs, and the SHA-256 of its statistics."""

    network: str
    photos: int
    calibrate: Cost
    quantize: Cost
    statistics: str


def links(photos: Path, count: int, folder: Path, shuffled: bool = False) -> Path:
    """A folder of `count` links to the first photos, repeated as needed; `shuffled` gives the names to other photos."""
    images = first(photos, None)
    chosen = [images.root / images.names[index % len(images)] for index in range(count)]
    if shuffled:
        random.Random(SEED).shuffle(chosen)
    folder.mkdir()
    for index, path in enumerate(chosen):
        (folder / f"{index:06d}{path.suffix}").symlink_to(path.resolve())
    return folder


def line(model: Path, photos: Path, count: int, folder: Path) -> Line:
    """Both commands, each a process of its own."""
    statistics, quantized = folder / f"{model.stem}-{count}.stats", folder / f"{model.stem}-{count}.onnx"
    edgeres, fitted = ["-m", "edgeres"], ["--scheme", "openvino", "--level", "balanced"]
    costs = [
        run([*edgeres, "calibrate", model, "--data", photos, "--out", statistics]),
        run([*edgeres, "quantize", model, "--data", photos, "--stats", statistics, *fitted, "--out", quantized]),
    ]
    for cost in costs:
        print(f"{model.stem}, {count}: {cost}", file=sys.stderr, flush=True)
        if cost.failed:
            raise SystemExit(f"{model} on {count} photos: {cost.failed}")
    return Line(onnx_io.info(model).arch, count, *costs, disk.digest(statistics))


def deep(out: Path) -> None:
    """Write a ResNet-152 whose batch norms have seen images, so that its activations neither vanish nor explode."""
    import torch

    from edgeres.export import export
    from edgeres.models.resnet import build

    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = build("resnet152", CLASSES)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.weight, 1.0, 0.2)
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
                module.momentum = None  # the plain average of what it sees
        images = torch.nn.functional.interpolate(torch.randn(32, 3, 8, 8), size=64, mode="bicubic")
        model.train()
        for batch in images.split(16):
            model(batch + 0.1 * torch.randn_like(batch))
    checkpoint = out.with_suffix(".pth")
    torch.save(model.state_dict(), checkpoint)
    export(checkpoint, out, "resnet152")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--counts", default="64,512,2048")
    parser.add_argument("--deep", type=int, default=64, help="photos for ResNet-152 [64]")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    parser.add_argument("--write-deep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_deep:
        deep(options.model)
        return
    counts = sorted(int(count) for count in options.counts.split(","))
    with TemporaryDirectory(prefix="edgeres-memory-") as name:
        folder = Path(name)
        lines = []
        for count in counts:
            photos = links(options.images, count, folder / f"photos-{count}")
            lines.append(line(options.model, photos, count, folder))
        other = folder / "shuffled"
        other.mkdir()
        again = line(options.model, links(options.images, counts[0], other / "photos", True), counts[0], other)
        if options.deep:
            # In a process of its own: torch's memory would count as that of this one's children.
            model = folder / "resnet152.onnx"
            subprocess.run([sys.executable, __file__, model, "--write-deep"], check=True, stdout=sys.stderr)
            lines.append(line(model, links(options.images, options.deep, folder / "deep"), options.deep, folder))

    here = machine.describe()
    same = again.statistics == lines[0].statistics
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}\n")
    print(table(lines))
    growth = peak(lines[len(counts) - 1]) / peak(lines[0]) - 1
    print(f"\nPeak memory at {counts[-1]} photos over that at {counts[0]}: {growth:+.1%}.")
    print(
        f"Statistics of {counts[0]} photos in another order: {'the same bytes' if same else 'DIFFERENT'}.", flush=True
    )
    if options.json:
        raw = {"machine": here.model_dump(), "lines": [asdict(one) for one in lines], "growth": growth, "same": same}
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


def peak(one: Line) -> float:
    return max(one.calibrate.peak_gb, one.quantize.peak_gb)


def table(lines: list[Line]) -> str:
    """Markdown."""
    head = ["network", "photos", "calibrate s", "calibrate peak GB", "quantize s", "quantize peak GB"]
    rows = [
        f"| {one.network} | {one.photos} | {one.calibrate.seconds:.1f} | {one.calibrate.peak_gb:.3f} "
        f"| {one.quantize.seconds:.1f} | {one.quantize.peak_gb:.3f} |"
        for one in lines
    ]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


if __name__ == "__main__":
    main()
