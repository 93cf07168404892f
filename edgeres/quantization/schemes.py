"""One small object per runtime: which tensors carry Q/DQ, of which type, and what the file must look like."""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeres import machine
from edgeres.errors import SchemeError, UsageError
from edgeres.quantization.graph import Role


@dataclass(frozen=True)
class Scheme:
    """Where Q/DQ pairs stand and of which type they are.

    `roles` are quantized; `activation` is the type of activations, `symmetric` fixes their zero point at 0;
    `paired` limits neighbouring weights so that the sum of two U8 x S8 products fits into 16 bits, where x86 CPUs
    without VNNI saturate (see `weights.scales`): the file then computes the same on every CPU;
    `int32_bias` stores the bias as INT32 with a DequantizeLinear of its own instead of as float;
    `half` leaves what is not INT8 in float16 instead of float32;
    `four_channels` quantizes the image before it is padded, and gives it a fourth channel of zeros: ONNX Runtime's
    convolutions read four input channels at once where they can, and copy the whole image for each position of the
    kernel where they cannot.
    """

    name: str
    why: str
    roles: frozenset[Role]
    activation: type[np.uint8] | type[np.int8]
    symmetric: bool
    paired: bool = False
    int32_bias: bool = False
    half: bool = False
    four_channels: bool = False

    def check(self, model: onnx.ModelProto) -> None:
        """SchemeError where a graph breaks the rules of this scheme's runtime."""
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            point = constants.get(node.input[2]) if len(node.input) > 2 else None
            if point is None:
                raise SchemeError(f"{node.name} has no constant zero point; scheme {self.name} needs one.")
            if self.symmetric and numpy_helper.to_array(point).any():
                raise SchemeError(f"{node.name} has a zero point other than 0; scheme {self.name} is symmetric.")
            if point.data_type == TensorProto.INT32 and not self.int32_bias:
                raise SchemeError(f"{node.name} dequantizes INT32; scheme {self.name} keeps the bias in float.")


_ALL = frozenset(Role)
_CONVOLUTIONS = _ALL - {Role.BRANCH, Role.OUTPUT}

SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "onnxruntime",
            "ONNX Runtime on any x86 CPU: U8 activations, INT32 biases, residual sums in INT8",
            _ALL,
            np.uint8,
            symmetric=False,
            paired=True,
            int32_bias=True,
            four_channels=True,
        ),
        Scheme(
            "onnxruntime-vnni",
            "the same for x86 CPUs with VNNI alone: weights may use all of their eighth bit",
            _ALL,
            np.uint8,
            symmetric=False,
            int32_bias=True,
            four_channels=True,
        ),
        Scheme(
            "onnxruntime-arm",
            "ONNX Runtime on ARM: S8 activations and weights, which its kernels multiply as they are",
            _ALL,
            np.int8,
            symmetric=False,
            int32_bias=True,
        ),
        Scheme(
            "openvino",
            "OpenVINO: U8 activations, both summands of residual sums in INT8, biases in float",
            _ALL - {Role.OUTPUT},
            np.uint8,
            symmetric=False,
            paired=True,
        ),
        Scheme(
            "tensorrt",
            "TensorRT and TensorRT for RTX: symmetric S8, shortcut quantized, branch not, floats in FP16",
            _CONVOLUTIONS,
            np.int8,
            symmetric=True,
            half=True,
        ),
        Scheme(
            "fp16", "No INT8: floats in FP16, which needs no images", frozenset(), np.int8, symmetric=True, half=True
        ),
        Scheme(
            "portable",
            "One file that every runtime takes and computes rightly: symmetric S8; not the fastest anywhere",
            _CONVOLUTIONS,
            np.int8,
            symmetric=True,
            paired=True,
        ),
    )
}


DEFAULT = "onnxruntime"
"""Where none is named: its files run in INT8 in ONNX Runtime and in OpenVINO, and are right on every x86 CPU."""
ALIASES = {"onnxruntime-avx2": "onnxruntime"}
"""Paired weights are right on every x86 CPU; who looks for the scheme without VNNI finds it by that name, too."""


_ALTERED = re.compile(rf"(.+?)((?:[+-](?:{'|'.join(role.value for role in Role)}))+)")


def find(name: str) -> Scheme:
    """The scheme of a name, which may add roles or take some away: `openvino-branch`, `onnxruntime-shortcut-head`.

    UsageError where there is no such scheme.
    """
    plain, changes = _split(name)
    if plain not in SCHEMES:
        near = difflib.get_close_matches(plain, (*SCHEMES, *ALIASES), 1)
        meant = f"did you mean {near[0]}? There" if near else "there"
        raise UsageError(f"there is no scheme {name!r}; {meant} are {', '.join((*SCHEMES, *ALIASES))}.")
    scheme = SCHEMES[plain]
    for sign, role in re.findall(r"([+-])(\w+)", changes):
        roles = scheme.roles | {Role(role)} if sign == "+" else scheme.roles - {Role(role)}
        scheme = replace(scheme, name=f"{scheme.name}{sign}{role}", roles=roles)
    return scheme


def base(name: str) -> str:
    """The name of the scheme that another one alters: `onnxruntime-vnni` of `onnxruntime-vnni-branch`."""
    return _split(name)[0]


def suits(name: str, features: Collection[str]) -> bool:
    """Whether a scheme is for CPUs of these `features`, as `machine.FEATURES` spells them."""
    if base(name) == "onnxruntime-vnni":
        return machine.has_vnni(features)
    return base(name) != "onnxruntime-arm" or "asimd" in features


def _split(name: str) -> tuple[str, str]:
    """A scheme's name and what is altered of it, as in `-branch+head`."""
    altered = _ALTERED.fullmatch(name) if name not in SCHEMES else None
    plain, changes = (altered[1], altered[2]) if altered else (name, "")
    return ALIASES.get(plain, plain), changes
