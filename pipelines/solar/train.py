"""Train the bundled ResNet-18 that tells defective from functional solar cells.

    python pipelines/solar/train.py [--out pipelines/solar/resnet18.safetensors]

Needs edgeres[export,demo]; about 50 minutes on one core (OMP_NUM_THREADS=1). Reads calibration/solar.train.csv, prints
the test accuracy on calibration/solar.test.csv once, at the end: nothing is selected on the test set. From random
weights, so that the result carries no licence but the images' own (CC BY-NC-SA 4.0).

Most epochs at 128 pixels, the last ones at 224; AdamW with one cosine; targets are the annotators' probabilities;
flips, quarter turns and shifts; the running average of the weights is what is saved, as fp16.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import elpv_dataset
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgeres.models.resnet import Block, build

IMAGES = Path(elpv_dataset.__file__).parent / "data"
MANIFESTS = Path(__file__).parents[2] / "calibration"
CLASSES = ["functional", "defective"]
MEAN, STD = 0.5, 0.2
STAGES = ((128, 18), (224, 2))  # pixels, epochs
BATCH, RATE, DECAY, AVERAGE = 16, 1e-3, 0.05, 0.995


def load(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, size, size) in [0, 255] as uint8, and the annotated probability of a defect (N,)."""
    lines = (line.split() for line in (IMAGES / "labels.csv").read_text().splitlines())
    probability = {path: float(value) for path, value, _ in lines}
    with (MANIFESTS / f"solar.{name}.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(line for line in file if not line.startswith("#"))]
    pixels = [np.asarray(Image.open(IMAGES / p).resize((size, size), Image.Resampling.BILINEAR)) for p in paths]
    return torch.from_numpy(np.stack(pixels)[:, None]), torch.tensor([probability[p] for p in paths])


def normalise(pixels: Tensor) -> Tensor:
    return ((pixels.float() / 255 - MEAN) / STD).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def augment(pixels: Tensor) -> Tensor:
    """Flip, turn and shift each image of a batch by chance."""
    shift = pixels.shape[-1] // 16
    padded = functional.pad(pixels.float(), (shift,) * 4, mode="replicate")
    images = []
    for image in padded:
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        image = image[:, top : top + pixels.shape[-1], left : left + pixels.shape[-1]]
        image = torch.rot90(image, int(torch.randint(4, ())), (1, 2))
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        images.append(image)
    return torch.stack(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "resnet18.safetensors")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model = build("resnet18", len(CLASSES)).to(memory_format=torch.channels_last)
    for block in model.modules():
        if isinstance(block, Block):  # a block begins as its shortcut: arXiv:1706.02677, section 5.1
            nn.init.zeros_(block.get_submodule(f"bn{block.convolutions}").weight)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE), use_buffers=True
    )
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE)
    batches = len(load("train", 32)[1]) // BATCH
    total = batches * sum(epochs for _, epochs in STAGES)
    step = 0
    for size, epochs in STAGES:
        pixels, probability = load("train", size)
        targets = torch.stack([1 - probability, probability], 1) * 0.95 + 0.025
        for epoch in range(epochs):
            start, losses, hits = time.monotonic(), [], []
            for chosen in torch.randperm(len(pixels))[: batches * BATCH].split(BATCH):
                warm = min(1.0, step / (2 * batches))
                for group in optimizer.param_groups:
                    group["lr"] = RATE * warm * (1 + math.cos(math.pi * step / total)) / 2
                logits = model(normalise(augment(pixels[chosen])))
                loss = functional.cross_entropy(logits, targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                average.update_parameters(model)
                losses.append(loss.item())
                hits.append((logits.argmax(1) == targets[chosen].argmax(1)).float().mean().item())
                step += 1
            took = time.monotonic() - start
            shown = f"loss {np.mean(losses):.4f}, accuracy {np.mean(hits):.3f}, {took:.0f} s"
            print(f"{size} px, epoch {epoch + 1}/{epochs}: {shown}", flush=True)
    final: nn.Module = average.module.eval()
    state = {k: v.half().contiguous() for k, v in final.state_dict().items() if not k.endswith("num_batches_tracked")}
    preprocess = {"resize": 224, "crop": 224, "mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bilinear"}
    metadata = {"arch": "resnet18", "classes": json.dumps(CLASSES), "preprocess": json.dumps(preprocess)}
    save_file(state, out, metadata)
    final.load_state_dict(state, strict=False)
    pixels, probability = load("test", STAGES[-1][0])
    with torch.inference_mode():
        predicted = torch.cat([final(normalise(part)).argmax(1) for part in pixels.split(BATCH)])
    accuracy = (predicted == (probability >= 0.5)).float().mean().item()
    print(f"test accuracy {accuracy:.2%} on {len(pixels)} cells; saved {out}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
