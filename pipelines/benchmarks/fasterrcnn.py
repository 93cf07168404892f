"""torchvision's Faster R-CNN against the two files that edgeres makes of its checkpoint, and `edgeres.regions`.

    TORCHDYNAMO_DISABLE=1 python pipelines/benchmarks/fasterrcnn.py RESNET50.pth PHOTOS WORK [--samples 4] [--size 320]

The body is trained, pyramid and heads are random, seeded. Both see the same prepared photos. Prints Markdown. Needs
torchvision; its RoIAlign in Python is used where its compiled part does not load, and is compiled but for the variable.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import operators  # noqa: F401  (before torchvision)
import torch
import torchvision
import torchvision.ops.boxes
from tools import first
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from edgeres import engines, onnx_io, regions
from edgeres.boxes import Boxes, overlaps
from edgeres.data import ImageSet, batches
from edgeres.export import export
from edgeres.models import checkpoint
from edgeres.types import Target

NAMES = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2")
TARGET = Target("onnxruntime", "cpu")
torchvision.ops.boxes._assert_has_ops = lambda: None  # `operators` has nms


def seeded(name: str, weights: Path) -> Any:
    """A detector whose heads keep the power of what they get, and say that boxes are about their proposals."""
    torch.manual_seed(0)
    network = getattr(detection, name)(weights=None, weights_backbone=None).eval()
    network.backbone.body.load_state_dict(checkpoint.read(weights).state, strict=False)
    with torch.no_grad():
        for key, value in network.named_parameters():
            if value.dim() > 1 and not key.startswith("backbone.body"):
                torch.nn.init.normal_(value, 0, (2 / value[0].numel()) ** 0.5)
        network.rpn.head.bbox_pred.weight *= 0.02
        network.roi_heads.box_predictor.bbox_pred.weight *= 0.3
    return network


def compared(network: Any, files: tuple[Path, Path], photos: ImageSet) -> list[str]:
    """The cells of a row: what is the worst of any photo."""
    dense, head = (engines.load(path, TARGET) for path in files)
    shares, pooling, found, scores = [], [], [], []
    for batch in batches(photos, onnx_io.info(files[0]).preprocess, 1):
        pixels, sides = torch.from_numpy(batch.images), batch.images.shape[2:]
        with torch.inference_mode():
            maps = network.backbone(pixels)
            theirs, _ = network.rpn(ImageList(pixels, [sides]), maps)
            cut = network.roi_heads.box_roi_pool(maps, theirs, [sides]).numpy()
            wanted = network.roi_heads(maps, theirs, [sides])[0][0]
        given = dict(zip(dense.outputs, dense.maps(batch.images), strict=True))
        mine = regions.proposals(given, sides)[0].boxes
        same = overlaps(mine, theirs[0].numpy())[np.arange(len(mine)), np.arange(len(mine))]
        shares.append(float((same > 0.99).mean()) if len(mine) == len(theirs[0]) else 0.0)
        named = {f"P{level + 2}": maps[str(level)].numpy() for level in range(4)}
        pooling.append(
            float(np.abs(regions.pooled(named, 0, theirs[0].numpy(), sides) - cut).max() / np.abs(cut).max())
        )
        made = regions.detect(given, sides, head.maps)[0]
        found.append(len(made.boxes))
        scores.append(_difference(made, wanted))
    return [f"{min(shares):.1%}", f"{max(pooling):.1e}", f"{min(found)} to {max(found)}", f"{max(scores):.1e}"]


def _difference(made: Boxes, wanted: Mapping[str, torch.Tensor]) -> float:
    """The largest of a score; infinite where labels or boxes are others."""
    labels, boxes, scores = (wanted[name].numpy() for name in ("labels", "boxes", "scores"))
    if made.labels.tolist() != labels.tolist() or np.abs(made.boxes - boxes).max(initial=0) > 0.1:
        return float("inf")
    return float(np.abs(made.scores - scores).max(initial=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--samples", type=int, default=4, help="photos")
    parser.add_argument("--size", type=int, default=320, help="side of the images")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    photos, preprocess = first(options.photos, options.samples), {"resize": options.size, "crop": options.size}
    print("| network | same proposals, in order | regions, relative | boxes, all with the same label | scores |")
    print("|---|---|---|---|---|")
    for name in NAMES:
        network, weights = seeded(name, options.weights), options.work / f"{name}.pth"
        torch.save(network.state_dict(), weights)
        files = [
            export(weights, options.work / f"{name}.{part}.onnx", preprocess=preprocess, box_head=part == "head").path
            for part in ("dense", "head")
        ]
        print(f"| {name} | {' | '.join(compared(network, (files[0], files[1]), photos))} |", flush=True)


if __name__ == "__main__":
    main()
