"""TensorRT's description of its layers, one a line, as the engine inspector gives it and the compiler logs it."""

import re
from collections.abc import Iterator
from math import prod

from edgeres.backends.base import RuntimeLayer

TYPES = {"Int8": "int8", "UInt8": "uint8", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
BYTES = {"Float": 4, "Half": 2, "BFloat16": 2}
"""Bytes of a weight; the other types take one."""
_OPERATORS = (
    (r"correlation|conv", "Conv"),
    (r"gemm|matmul|matrixmultiply|matrix_multiply|_fc", "Gemm"),
    (r"pool", "MaxPool"),
)
_LAYER = re.compile(r"^Name: (.*?), LayerType: (\w+), Inputs: (.*?)(?:, Constants: (.*?))?, Outputs: (.*)$", re.M)
_TYPE = re.compile(r"Datatype: (\w+)")
_CONSTANT = re.compile(r"Dimensions: \[([\d,]+)\].*?Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SUFFIX = re.compile(r"(?:_U\d+)?_myl\d+_\d+$")
_WAITING = ("signal", "wait", "shape_call")
"""Kinds of layers that compute nothing."""


def read(plan: str) -> list[RuntimeLayer]:
    """The layers of a plan, in order."""
    return list(_layers(plan))


def convolutions(plan: str) -> list[str]:
    """The arithmetic of each convolution: int8, fp16, fp32, ..."""
    return [layer.precision for layer in read(plan) if "Conv" in layer.operators]


def _layers(plan: str) -> Iterator[RuntimeLayer]:
    for name, kernel, inputs, constants, rest in _LAYER.findall(plan):
        if kernel in _WAITING:
            continue
        said = name if kernel == "runtime_fusion" else kernel
        operators = tuple(operator for pattern, operator in _OPERATORS if re.search(pattern, said, re.IGNORECASE))[:1]
        types = [TYPES.get(one, one) for one in _TYPE.findall(inputs)]
        if kernel == "kgen":  # element by element, in the type of the scales where there are any
            types += [TYPES.get(of, of) for _, of in _CONSTANT.findall(constants)]
            types = [kind for kind in ("float32", "float16", "bfloat16") if kind in types] or types
        origins = tuple(_ORIGIN.findall(rest)) or (_SUFFIX.sub("", name),)
        sizes = [
            prod(map(int, sides.split(","))) * BYTES.get(of, 1) for sides, of in _CONSTANT.findall(constants or "")
        ]
        held = max(sizes) if sizes and operators[:1] in (("Conv",), ("Gemm",)) else None
        yield RuntimeLayer(name, operators, kernel, types[0] if types else "", origins, held)
