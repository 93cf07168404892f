"""Example reports, shaped like those of the bundled solar model. Everything can be replaced through keywords."""

import base64
import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from edgeres.schema import (
    Accuracy,
    Cell,
    ClassAccuracy,
    Flip,
    Latency,
    LayerError,
    LayerPrecision,
    Machine,
    McNemar,
    Model,
    Report,
    Throughput,
)
from edgeres.types import Precision

TEST, CALIBRATION = "5e" * 32, "ca" * 32
GPUS = ("sm75", "sm86", "sm89", "sm120")


def timed(samples: Any, **given: Any) -> Latency:
    """A latency whose figures follow from its samples, as the measurement makes it."""
    p50, p90, p99 = (float(p) for p in np.percentile(samples, (50, 90, 99)))
    values: dict[str, Any] = {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "batch": 1,
        "throughput": 1000 / float(np.mean(samples)),
        "samples": [float(sample) for sample in samples],
        "rounds": [len(part) for part in np.array_split(np.asarray(samples), 4) if len(part)],
        "warmup": 50,
        "stable": True,
    }
    return Latency(**values | given)


def latency(median: float, calls: int = 400, noise: float = 0.03, seed: int = 0, **given: Any) -> Latency:
    """Skewed noise on a floor, as timings have it."""
    samples = median * (1 + noise * (np.random.default_rng(seed).gamma(2, 1, calls) - 1.678))
    return timed(np.round(samples, 4), **given)


def whole(median: float, **given: Any) -> Latency:
    """A latency of three processes with all that can be told of it."""
    values: dict[str, Any] = {
        "p50_interval": (0.99 * median, 1.012 * median),
        "p999": 1.6 * median,
        "rounds": [334, 333, 333],
        "throughputs": [
            Throughput(
                batch=batch, streams=streams, images_per_second=1000 / median * (1 + 0.2 * (batch * streams > 1))
            )
            for batch, streams in ((1, 1), (8, 1), (1, 2))
        ],
        "peak_rss_mb": 180.5,
    }
    return latency(median, **{"calls": 1000} | values | given)


def accuracy(right: int, images: int = 656, **given: Any) -> Accuracy:
    """`right` of `images`, with Wilson's 95 % interval."""
    values: dict[str, Any] = {
        "images": images,
        "dataset": TEST,
        "top1": right / images,
        "top1_interval": wilson(right / images, images),
    }
    return Accuracy(**values | given)


def wilson(share: float, images: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * (share * (1 - share) / images + z * z / (4 * images**2)) ** 0.5 / (1 + z * z / images)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(right: int, lost: int, gained: int, exact: int = 545, images: int = 656, **given: Any) -> Accuracy:
    """The accuracy of an INT8 cell beside FP32's `exact` right ones, with all that can be told of it."""
    agreement = 1 - (lost + gained) / images
    values: dict[str, Any] = {
        "agreement": agreement,
        "agreement_interval": wilson(agreement, images),
        "mcnemar": McNemar(lost=lost, gained=gained, p=1.0 if lost == gained else 0.375),
        "flipped": [flip(number, number >= lost) for number in range(lost + gained)],
        "classes": [
            ClassAccuracy(name="functional", images=451, top1=0.905, reference=0.9),
            ClassAccuracy(
                name="defective", images=205, top1=max(0, right - 408) / 205, reference=max(0, exact - 406) / 205
            ),
        ],
        "images_per_second": 88.4,
    }
    return accuracy(right, images, **values | given)


def flip(number: int, gained: bool = False, **given: Any) -> Flip:
    right, wrong = ("functional", "defective")[:: 1 if number % 2 else -1]
    values: dict[str, Any] = {
        "name": f"images/cell{37 + 180 * number:04d}.png",
        "label": right,
        "reference": wrong if gained else right,
        "predicted": right if gained else wrong,
        "thumbnail": thumbnail(number),
    }
    return Flip(**values | given)


@cache
def thumbnail(seed: int) -> str:
    """Something like a solar cell, 64 x 64, as base64 of a JPEG."""
    pixels = np.random.default_rng(seed).normal(150, 14, (64, 64)) - 60 * (np.arange(64) % 21 < 2)
    written = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=60)
    return base64.b64encode(written.getvalue()).decode()


def inside(blocks: tuple[int, ...] = (2, 2, 2, 2), seed: int = 0, **given: Any) -> dict[str, Any]:
    """Layers and errors as those of a ResNet with so many basic blocks a stage; `given`: a layer's other precision."""
    names = [
        f"layer{stage}.{block}.conv{conv}"
        for stage, count in enumerate(blocks, 1)
        for block in range(count)
        for conv in (1, 2)
    ]
    names = ["conv1", *names, "fc"]
    noise = np.random.default_rng(seed)
    layers = [
        LayerPrecision(
            name=name,
            precision=given.get(name.replace(".", "_"), "int8"),
            kernel="QLinearConv" if name != "fc" else "QGemm",
            macs=115_605_504 if name != "fc" else 1024,
            weight_bytes=36_864 if name != "fc" else 1024,
        )
        for name in names
    ]
    layers.insert(1, LayerPrecision(name="maxpool", precision="int8", kernel="in conv1"))
    errors = [
        LayerError(name=f"{name}.relu", role="inner" if name.endswith("1") else "sum", sqnr_db=round(float(sqnr), 2))
        for name, sqnr in zip(names, 44 - 0.7 * np.arange(len(names)) + noise.normal(0, 3, len(names)), strict=True)
    ]
    return {"layers": layers, "errors": [*errors, LayerError(name="logits", role="logits", sqnr_db=31.4)]}


def cell(target: str, precision: str, **given: Any) -> Cell:
    """A measured cell, unless `status` says otherwise."""
    name = f"{target.replace(':', '-')}-{precision}.engine"
    values: dict[str, Any] = {
        "target": target,
        "precision": Precision(precision),
        "scheme": {"int8": target.partition(":")[0], "fp16": "fp16"}.get(precision),
        "status": "measured",
        "engine": name,
        "size": 11_400_000 if precision == "int8" else 44_800_000,
        "digest": name.encode().hex().ljust(64, "0")[:64],
    }
    return Cell(**values | given)


def built(target: str, precision: str, **given: Any) -> Cell:
    """A cell whose engine this machine cannot run."""
    message = "running it needs an NVIDIA GPU of that generation; copy it there and use `edgeres bench`."
    return cell(target, precision, **{"status": "built", "message": message} | given)


def machine(**given: Any) -> Machine:
    values: dict[str, Any] = {
        "system": "Linux 6.1",
        "architecture": "x86_64",
        "cpu": "Intel(R) Xeon(R) Processor @ 2.10GHz",
        "cores": 2,
        "memory_gib": 23.5,
        "features": ["avx2", "avx512_vnni", "amx_int8"],
        "python": "3.11.2",
        "packages": {"edgeres": "0.1.0", "numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0"},
    }
    return Machine(**values | given)


def report(cells: list[Cell], **given: Any) -> Report:
    values: dict[str, Any] = {
        "name": "solar",
        "created": "2026-01-15T10:30:00Z",
        "machine": machine(),
        "model": Model(
            arch="resnet18",
            classes=2,
            digest="f3" * 32,
            parity={"images": 64, "largest": 2.1e-6, "relative": 3.4e-7, "agreement": 1.0},
        ),
        "calibration": {"images": 512, "dataset": CALIBRATION, "method": "entropy"},
        "cells": cells,
    }
    return Report(**values | given)


def solar(**given: Any) -> Report:
    """ONNX Runtime and OpenVINO measured, TensorRT for RTX built for four generations of GPU."""
    ort = {"runtime": "onnxruntime", "version": "1.32.0", "provider": "CPUExecutionProvider", "threads": "2"}
    vino = {"runtime": "openvino", "version": "2026.4.1", "device": "CPU", "threads": "2"}
    measured = [
        cell("onnxruntime:cpu", "fp32", latency=whole(11.9, seed=1), accuracy=accuracy(545), properties=ort),
        cell(
            "onnxruntime:cpu",
            "int8",
            latency=whole(4.21, seed=2, noise=0.05),
            accuracy=paired(544, 3, 2),
            properties=ort,
            **inside(fc="fp32"),
        ),
        cell(
            "openvino:cpu",
            "fp32",
            latency=whole(12.8, seed=3, device_p50=12.4, energy_mj=310.0),
            accuracy=accuracy(545),
            properties=vino,
        ),
        cell(
            "openvino:cpu",
            "int8",
            latency=whole(2.05, seed=4, noise=0.04, notes=["p99 is 1.4 times p50: other work ran beside it."]),
            accuracy=paired(542, 17, 14),
            properties=vino,
            **inside(seed=1),
        ),
    ]
    waiting = [built(f"tensorrt-rtx:{gpu}", precision) for gpu in GPUS for precision in ("fp16", "int8")]
    return report(measured + waiting, **given)
