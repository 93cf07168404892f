"""The table of the family: each row says what one network is made of, under the name that the field knows it by.

Sources: "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), its section 4.2 for the CIFAR networks;
"Identity Mappings in Deep Residual Networks" (arXiv:1603.05027) for pre-activation; "Wide Residual Networks"
(arXiv:1605.07146); "Aggregated Residual Transformations" (arXiv:1611.05431); "Squeeze-and-Excitation Networks"
(arXiv:1709.01507); "Bag of Tricks for Image Classification" (arXiv:1812.01187) for the stems and shortcuts of C and D,
timm for T; "MLPerf Tiny Benchmark" (arXiv:2106.07597) for ResNet-8.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    `depths` counts the blocks of each stage; `groups` and `base_width` size the 3x3 convolution of a bottleneck
    (torchvision's `groups` and `width_per_group`); `width` is what the stem gives, in channels, and doubles with each
    stage. `stem` is the 7x7 convolution and max-pool of ImageNet networks ("caffe": its pool rounds up instead of
    padding), three 3x3 convolutions in its place ("deep", "tiered"), or one 3x3 for CIFAR, without a pool. `shortcut`
    is what a block uses where the shape changes: a 1x1 projection (option B), an average-pool before it, or strided
    subsampling with zero-padded channels (option A). `stride` names the convolution of a bottleneck that strides: the
    1x1 of the paper and Caffe (v1) or the 3x3 of torchvision (v1.5). `order` places batch norm and ReLU behind ("post")
    or before ("pre") the convolutions. `attention` is squeeze-and-excitation with reduction 16. `bias` gives every
    convolution a bias and takes the batch norm from projections; `padding` "same" is TensorFlow's, which pads an even
    side on its far end alone where a 3x3 convolution strides. `size` is the input side in pixels that the network was
    designed for.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    groups: int = 1
    base_width: int = 64
    stem: Literal["imagenet", "caffe", "deep", "tiered", "cifar"] = "imagenet"
    shortcut: Literal["projection", "pool", "pad"] = "projection"
    stride: Literal["3x3", "1x1"] = "3x3"
    order: Literal["post", "pre"] = "post"
    attention: Literal["none", "se"] = "none"
    width: int = 64
    bias: bool = False
    padding: Literal["symmetric", "same"] = "symmetric"
    size: int = 224


BLOCKS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
"""Layers -> the blocks of an ImageNet network."""
C: dict[str, Any] = {"stem": "deep"}
D: dict[str, Any] = {"stem": "deep", "shortcut": "pool"}
T: dict[str, Any] = {"stem": "tiered", "shortcut": "pool"}
V2: dict[str, Any] = {"order": "pre"}
SE: dict[str, Any] = {"attention": "se"}
CAFFE: dict[str, Any] = {"stem": "caffe", **SE}


def _rows(pattern: str, layers: tuple[int, ...], **fields: Any) -> dict[str, Architecture]:
    return {pattern.format(count): Architecture(*BLOCKS[count], **fields) for count in layers}


def _cifar(pattern: str, layers: tuple[int, ...], **fields: Any) -> dict[str, Architecture]:
    """Three stages of 16, 32 and 64 channels: 6 n + 2 layers of basic blocks."""
    common: dict[str, Any] = {"stem": "cifar", "width": 16, "size": 32, **fields}
    return {pattern.format(count): Architecture("basic", ((count - 2) // 6,) * 3, **common) for count in layers}


ARCHITECTURES: dict[str, Architecture] = {
    **_rows("resnet{}", (18, 34, 50, 101, 152, 26, 200)),
    **_rows("wide_resnet{}_2", (50, 101), base_width=128),
    **_rows("resnext{}_32x4d", (50, 101), groups=32, base_width=4),
    **_rows("resnext{}_32x8d", (101,), groups=32, base_width=8),
    **_rows("resnext{}_32x16d", (101,), groups=32, base_width=16),
    **_rows("resnext{}_64x4d", (101,), groups=64, base_width=4),
    **_rows("resnet{}c", (50, 101, 152), **C),
    **_rows("resnet{}d", (18, 26, 34, 50, 101, 152, 200), **D),
    **_rows("resnet{}t", (10, 14, 26, 50), **T),
    **_rows("resnext{}d_32x4d", (50,), groups=32, base_width=4, **D),
    **_rows("seresnet{}", (18, 34, 50, 101, 152), **SE),
    **_rows("seresnet{}t", (50,), **SE, **T),
    **_rows("seresnet{}d", (152,), **SE, **D),
    **_rows("seresnext{}_32x4d", (50, 101), groups=32, base_width=4, **SE),
    **_rows("seresnext{}_32x8d", (101,), groups=32, base_width=8, **SE),
    **_rows("seresnext{}_64x4d", (101,), groups=64, base_width=4, **SE),
    **_rows("seresnext{}d_32x4d", (26,), groups=32, base_width=4, **SE, **D),
    **_rows("seresnext{}t_32x4d", (26,), groups=32, base_width=4, **SE, **T),
    **_rows("resnetv2_{}", (18, 34, 50, 101, 152), **V2),
    **_rows("resnetv2_{}d", (18, 34, 50, 101, 152), **V2, **D),
    **_rows("resnetv2_{}t", (50,), **V2, **T),
    **_cifar("cifar_resnet{}", (20, 32, 44, 56, 110, 1202), shortcut="pad"),
    **_cifar("cifar_resnet{}_b", (20, 32, 44, 56, 110, 1202)),
    **_cifar("cifar_preresnet{}", (20, 32, 44, 56, 110, 1202), **V2),
    **{  # 9 n + 2 layers
        f"cifar_preresnet{9 * n + 2}": Architecture("bottleneck", (n,) * 3, stem="cifar", width=16, size=32, **V2)
        for n in (18, 111)
    },
    **_rows("cifar_resnet{}", (18, 34, 50), stem="cifar", size=32),
    "resnet8": Architecture("basic", (1, 1, 1), stem="cifar", width=16, bias=True, padding="same", size=32),
    # Tensors of the same names and shapes as of rows above; so those are what a checkpoint alone is recognised as.
    **_rows("resnet{}_v1", (50, 101, 152), stride="1x1"),
    **_rows("legacy_seresnet{}", (50, 101, 152), stride="1x1", **CAFFE),
    **_rows("legacy_seresnext{}_32x4d", (50, 101), groups=32, base_width=4, **CAFFE),
    "resnet8_torch": Architecture("basic", (1, 1, 1), stem="cifar", width=16, bias=True, size=32),
}
"""Name -> row. The names are torchvision's and timm's where they have the network; `_v1` strides as the paper does,
`_b` is option B, `resnet8` is MLPerf Tiny's reference and `resnet8_torch` its port with symmetric padding."""
