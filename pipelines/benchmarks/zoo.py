"""Networks of timm, torchvision and transformers, saved as people save them, exported by edgeres with no --arch.

    python pipelines/benchmarks/zoo.py [NAME ...] > table.md

Each network is made by the library itself, with seeded weights and batch norms that have seen images, saved, read and
exported by `edgeres.export`; then ONNX Runtime's logits of the exported file are held against the library's own forward
pass on the same four inputs. Prints Markdown. Needs timm, torchvision and transformers.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from libraries import timm, torchvision, transformers
from safetensors.torch import save_file
from torch import nn

from edgeres import onnx_io
from edgeres.export import export

CLASSES = 12


class Lightning(nn.Module):
    """As a LightningModule keeps its network and the weights of its loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x)


class Transfer(nn.Module):
    """The children of a torchvision network as a feature extractor, and a new classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(*list(network.children())[:-1])
        self.classifier = nn.Linear(network.fc.in_features, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return self.classifier(torch.flatten(self.feature_extractor(x), 1))


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=CLASSES, **options)


def of_torchvision(name: str, wrap: Callable[[Any], nn.Module] = lambda network: network) -> Callable[[], nn.Module]:
    return lambda: wrap(getattr(torchvision.models, name)(num_classes=CLASSES))


def of_transformers(depths: list[int], kind: str, **options: Any) -> Callable[[], nn.Module]:
    sizes = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    config = transformers.ResNetConfig(
        depths=depths, layer_type=kind, hidden_sizes=sizes, num_labels=CLASSES, **options
    )
    return lambda: transformers.ResNetForImageClassification(config)


def of_wrapper(name: str) -> Callable[[], nn.Module]:
    """A network of timm inside transformers."""
    known = {"input_size": [3, 160, 160], "crop_pct": 0.9}
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=CLASSES, pretrained_cfg=known)
    return lambda: transformers.TimmWrapperForImageClassification(config)


def with_head(network: Any) -> nn.Module:
    """A finetuned head of two layers and a batch norm."""
    width = network.fc.in_features
    network.fc = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, CLASSES)
    )
    return network


# How it is saved: (network, folder) -> what is given to --weights


def state(network: nn.Module, folder: Path) -> Path:
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def half(network: nn.Module, folder: Path) -> Path:
    save_file({name: value.half() for name, value in network.state_dict().items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def loop(network: nn.Module, folder: Path) -> Path:
    """timm's train.py with --model-ema in a distributed run: the EMA is the trained one."""
    other = {f"module.{name}": torch.zeros_like(value) for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    content = {
        "epoch": 299,
        "arch": "some",
        "state_dict": other,
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=Path("here")),
        "state_dict_ema": {f"module.{name}": value for name, value in network.state_dict().items()},
        "metric": np.float64(79.3),
    }
    torch.save(content, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def lightning(network: nn.Module, folder: Path) -> Path:
    content = {
        "epoch": 9,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": network.state_dict(),
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1)},
        "callbacks": {},
        "optimizer_states": [torch.optim.AdamW(network.parameters()).state_dict()],
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def hub(network: nn.Module, folder: Path) -> Path:
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def pretrained(network: Any, folder: Path) -> Path:
    network.save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875).save_pretrained(folder)
    return folder


def alone(network: Any, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder / "model.safetensors"


def sharded(network: Any, folder: Path) -> Path:
    network.save_pretrained(folder, max_shard_size="40MB")
    return folder


BASIC, BOTTLENECK = "basic", "bottleneck"
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Path], Path], str]] = {
    "torchvision resnet18": (of_torchvision("resnet18", Lightning), lightning, "Lightning checkpoint"),
    "torchvision resnet34": (of_torchvision("resnet34", Transfer), state, "feature extractor and classifier"),
    "torchvision resnet50": (of_torchvision("resnet50", with_head), state, "head of two layers, batch norm"),
    "torchvision wide_resnet50_2": (of_torchvision("wide_resnet50_2"), state, "state dict"),
    "timm resnet18": (of_timm("resnet18"), state, "state dict"),
    "timm resnet50": (of_timm("resnet50"), hub, "folder for the hub"),
    "timm resnet50d": (of_timm("resnet50d"), hub, "folder for the hub"),
    "timm resnext50_32x4d": (of_timm("resnext50_32x4d"), loop, "train.py: DDP, EMA, arguments"),
    "timm seresnet50": (of_timm("seresnet50"), loop, "train.py: DDP, EMA, arguments"),
    "timm legacy_seresnet50": (of_timm("legacy_seresnet50"), state, "state dict"),
    "timm wide_resnet50_2": (of_timm("wide_resnet50_2"), half, "half-precision safetensors"),
    "timm resnet26t": (of_timm("resnet26t"), state, "state dict"),
    "timm seresnext26d_32x4d": (of_timm("seresnext26d_32x4d"), state, "state dict"),
    "timm resnetv2_50": (of_timm("resnetv2_50"), state, "state dict"),
    "timm resnetv2_50d": (of_timm("resnetv2_50d"), hub, "folder for the hub"),
    "transformers 2-2-2-2 basic": (of_transformers([2, 2, 2, 2], BASIC), pretrained, "save_pretrained"),
    "transformers 2-2-2-2 bottleneck": (of_transformers([2, 2, 2, 2], BOTTLENECK), state, "state dict"),
    "transformers 3-4-6-3 bottleneck": (of_transformers([3, 4, 6, 3], BOTTLENECK), pretrained, "save_pretrained"),
    "transformers 3-4-6-3, stride in the 1x1": (
        of_transformers([3, 4, 6, 3], BOTTLENECK, downsample_in_bottleneck=True),
        sharded,
        "save_pretrained in shards",
    ),
    "transformers' wrapper of timm's resnet18": (of_wrapper("resnet18"), alone, "the file of save_pretrained"),
}


def lively(network: nn.Module) -> nn.Module:
    """Batch norms that have seen images, with weights of their own; in evaluation mode."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.momentum = 0.5
                nn.init.normal_(module.weight, 1.0, 0.1)
                nn.init.normal_(module.bias, 0.0, 0.1)
        network.train()
        for _ in range(4):
            network(torch.randn(8, 3, 64, 64))
    return network.eval()


def rows(names: list[str]) -> Iterator[list[str]]:
    for name in names:
        make, save, how = ZOO[name]
        torch.manual_seed(0)
        network = lively(make())
        with tempfile.TemporaryDirectory() as folder:
            path = save(network, Path(folder))
            artifact = export(path, Path(folder) / "out" / "model.onnx")
            info = onnx_io.info(artifact.path)
            given = torch.randn(4, 3, info.preprocess.crop, info.preprocess.crop)
            session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
            (found,) = session.run(None, {"input": given.numpy()})
        if save is half:
            network.half().float()
        with torch.inference_mode():
            made = network(given)
        wanted = getattr(made, "logits", made).numpy()
        used = info.preprocess
        prepared = f"{used.resize}/{used.crop} {used.interpolation}"
        yield [name, how, info.arch, prepared, f"{np.abs(found - wanted).max():.1e}", f"{np.abs(wanted).max():.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ZOO, []], metavar="NAME")
    names = parser.parse_args().names or list(ZOO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    print("| network | saved as | exported as | resize/crop | largest difference | largest logit |")
    print("|---|---|---|---|--:|--:|")
    for row in rows(names):
        print(f"| {' | '.join(row)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
