"""Commands before quantization: export, regions."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli.common import AsJson, Images, Model, Out, Samples, app, check_name, progress, say, show, unchanged
from edgeres.errors import InputError, UsageError


@app.command()
def export(
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="Checkpoint: .pth, .safetensors, .pt2, or a folder with config.json."),
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="In its place an ONNX network from elsewhere.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The ONNX file to write.")] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture.", show_default="recognised")] = None,
    opset: Annotated[int, typer.Option(min=13, max=21, help="ONNX opset.")] = 19,
    batch: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Fix the batch size.", show_default="free")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Crop, in pixels.", show_default="the checkpoint's")] = None,
    resize: Annotated[int | None, typer.Option(min=8, help="Shorter side before the crop, in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers, comma between: 0.485,0.456,0.406")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers, comma between: 0.229,0.224,0.225")] = None,
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file with one class name a line.")] = None,
    task: Annotated[
        str | None, typer.Option(help="What the head is for: classification, multi-label or regression.")
    ] = None,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Drop the head: the pooled features. Of --onnx: its output.")
    ] = False,
    features: Annotated[str | None, typer.Option(help="Give maps of the stages instead: C2,C3,C4,C5.")] = None,
    box_head: Annotated[
        bool, typer.Option("--box-head", help="Give the second network of a Faster R-CNN; see `regions`.")
    ] = False,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Images that prove the parity.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the architectures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint, or an ONNX network from elsewhere, into edgeres' ONNX and prove it against its source."""
    from edgeres import export as step
    from edgeres.data import open_images
    from edgeres.figures import counted, outputs

    if listed and (weights or onnx or out):
        raise UsageError("--list lists the architectures and exports nothing; leave the rest out.")
    if listed:
        sizes = step.architectures()
        show(_table(sizes), {"architectures": {name: asdict(size) for name, size in sizes.items()}}, as_json)
        return
    source = weights or onnx
    if source is None or out is None or (weights and onnx):
        raise UsageError("export needs one of --weights and --onnx, and --out; see `edgeres export --help`.")
    if onnx and onnx.suffix != ".onnx":
        raise UsageError(f"{onnx} is not named .onnx; checkpoints are given with --weights.")
    if embedding and (task or classes):
        raise UsageError("--embedding drops the head; leave --task and --classes out.")
    if (features or box_head) and (task or classes or embedding):
        raise UsageError("--features and --box-head give maps alone; leave --task, --classes and --embedding out.")
    if features and box_head:
        raise UsageError("--features is another part of the network than --box-head; give one of them.")
    check_name(out, ".onnx")
    chosen: Any = task or ("embedding" if embedding else "classification")
    given = {
        "crop": size,
        "resize": resize,
        "mean": _numbers(mean),
        "std": _numbers(std),
        "interpolation": interpolation,
    }
    made = step.export(
        source,
        out,
        arch,
        opset=opset,
        batch=batch,
        preprocess={name: value for name, value in given.items() if value is not None},
        classes=_lines(classes),
        task=chosen,
        features=[name.strip() for name in features.split(",")] if features else (),
        box_head=box_head,
        images=open_images(data) if data else None,
    )
    parity, model = dict(made.sidecar.results), made.sidecar.parameters["model"]
    recognised, notes = parity.pop("recognised", []), parity.pop("notes", [])
    recognised = recognised if arch is None else []
    also = f"; --arch for {', '.join(recognised[1:])}, which has the same tensors" if recognised[1:] else ""
    guess = f" (recognised{also})" if recognised else ""
    top1 = "" if parity["agreement"] is None else f", top-1 agreement {parity['agreement']:.0%}"
    origin = "the original" if source.suffix == ".onnx" else "torch"
    lines = [
        f"{out}: {model['arch']}{guess}, {outputs(model['task'], model['outputs'])}, opset {opset}{unchanged(made)}",
        *notes,
        f"parity with {origin} on {counted(parity['images'])}: largest difference {parity['largest']:.2g} "
        f"({parity['relative']:.1e} of the largest output){top1}",
        *(f"  {name}: {share:.1e}" for name, share in parity.get("outputs", {}).items()),
    ]
    found = {"out": str(out), **model, "recognised": recognised, "notes": notes, "parity": parity}
    show("\n".join(lines), found, as_json)


@app.command()
def regions(
    model: Model,
    data: Images,
    out: Out,
    samples: Samples = None,
    each: Annotated[int, typer.Option(min=1, help="Regions of an image.")] = 64,
) -> None:
    """Cut out of images what the box head of a Faster R-CNN takes: an .npz file that calibrates and evaluates it."""
    from edgeres import regions as step
    from edgeres.data import open_images

    images = open_images(data)
    chosen = images.draw(samples) if samples else images
    with progress().step("regions", len(chosen)) as advance:
        made = step.cut(model, chosen, out, each, advance)
    say(f"{out}: regions of {len(chosen)} images{unchanged(made)}")


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not three numbers with commas between, as in 0.485,0.456,0.406.") from None


def _table(sizes: Mapping[str, Any]) -> str:
    lines = [f"{'architecture':<24}  layers  pixels  parameters (M)  MACs (G)"]
    for name, size in sizes.items():
        figures = f"{size.layers:6}  {size.input:6}  {size.parameters / 1e6:14.2f}  {size.macs / 1e9:8.2f}"
        lines.append(f"{name:<24}  {figures}")
    return "\n".join(lines)


def _lines(path: Path | None) -> list[str]:
    from edgeres import disk

    if path is None:
        return []
    names = [line.strip() for line in disk.read_text(path).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path} holds no class names; give one name a line.")
    return names
