"""Example reports, shaped like those of the bundled solar model. Everything can be replaced through keywords."""

from typing import Any

import numpy as np

from edgeres.schema import Accuracy, Cell, Latency, Machine, Model, Report
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
        "warmup": 50,
        "stable": True,
    }
    return Latency(**values | given)


def latency(median: float, calls: int = 400, noise: float = 0.03, seed: int = 0, **given: Any) -> Latency:
    """Skewed noise on a floor, as timings have it."""
    samples = median * (1 + noise * (np.random.default_rng(seed).gamma(2, 1, calls) - 1.678))
    return timed(np.round(samples, 4), **given)


def accuracy(right: int, images: int = 656, **given: Any) -> Accuracy:
    """`right` of `images`, with Wilson's 95 % interval (Wilson 1927)."""
    share, z = right / images, 1.959964
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * (share * (1 - share) / images + z * z / (4 * images**2)) ** 0.5 / (1 + z * z / images)
    values: dict[str, Any] = {
        "images": images,
        "dataset": TEST,
        "top1": share,
        "top1_interval": (max(0.0, centre - half), min(1.0, centre + half)),
    }
    return Accuracy(**values | given)


def cell(target: str, precision: str, **given: Any) -> Cell:
    """A measured cell, unless `status` says otherwise."""
    name = f"{target.replace(':', '-')}-{precision}.engine"
    values: dict[str, Any] = {
        "target": target,
        "precision": Precision(precision),
        "scheme": target.partition(":")[0] if precision == "int8" else None,
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
    flipped = [f"images/cell{number:04d}.png" for number in range(37, 2600, 180)]
    measured = [
        cell("onnxruntime:cpu", "fp32", latency=latency(11.9, seed=1), accuracy=accuracy(545), properties=ort),
        cell(
            "onnxruntime:cpu",
            "int8",
            latency=latency(4.21, seed=2, noise=0.05),
            accuracy=accuracy(544, agreement=651 / 656, flipped=flipped[:5]),
            properties=ort,
        ),
        cell("openvino:cpu", "fp32", latency=latency(12.8, seed=3), accuracy=accuracy(545), properties=vino),
        cell(
            "openvino:cpu",
            "int8",
            latency=latency(2.05, seed=4, noise=0.04, notes=["p99 is 1.4 times p50: other work ran beside it."]),
            accuracy=accuracy(542, agreement=642 / 656, flipped=flipped[:14]),
            properties=vino,
        ),
    ]
    waiting = [built(f"tensorrt-rtx:{gpu}", precision) for gpu in GPUS for precision in ("fp16", "int8")]
    return report(measured + waiting, **given)
