"""Ways to spoil a file: blindly, and as its format would have it, so that checksums and syntax still hold."""

import base64
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

NUMBERS = (0, 1, -1, 2, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
"""Integers around which programs break."""
TEXTS = (
    "",
    "\0",
    "../../etc/passwd",
    "/dev/zero",
    "=1+1",
    "<script>",
    "\x1b[2J",
    "\N{SNOWMAN} \N{GRINNING FACE}",
    "a" * 5000,
)
VALUES = (None, True, 0, -1, 1e308, -1e-320, 2**70, float("nan"), float("inf"), [], {}, [[]], *TEXTS)
TOKENS = (
    *("null", "-1", "0", "1e999", "NaN", "-Infinity", "[]", "{}", '""', '"\\u0000"', "true", "9" * 400, "[" * 3000),
    *('{"a":' * 3000, "\x00", "\ufeff", ",", ":", "'", '"', "\r", "=", "#", ";", "\udcff", "\u2028", "é" * 3000),
)


def blind(random: Random, content: bytes) -> bytes:
    """One to three of: cut off, flipped, overwritten, put in, taken out, doubled, moved."""
    made = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        size = len(made)
        first = random.randrange(size + 1)
        last = min(size, first + random.choice((1, 2, 4, 8, 64, 1024, size)))
        kind = random.randrange(9)
        if kind == 0:
            del made[first:]
        elif kind == 1:
            for _ in range(random.choice((1, 1, 2, 8))):
                if size:
                    made[random.randrange(size)] ^= 1 << random.randrange(8)
        elif kind == 2:
            made[first:last] = bytes([random.choice((0, 255, 127, 128, random.randrange(256)))]) * (last - first)
        elif kind == 3:
            made[first:first] = random.randbytes(random.choice((1, 2, 4, 16, 512)))
        elif kind == 4:
            del made[first:last]
        elif kind == 5:
            made[first:first] = made[first:last]
        elif kind == 6:
            made[first:last] = made[: last - first]
        elif kind == 7:
            number, width = random.choice(NUMBERS), random.choice((1, 2, 4, 8))
            made[first : first + width] = (number % 256**width).to_bytes(width, random.choice(("little", "big")))
        elif random.randrange(20) == 0:
            made = bytearray(random.choice((b"", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", b"\x80\x04.", b"\x89PNG")))
        else:
            made[first:last] = random.randbytes(last - first)
    return bytes(made)


def text(random: Random, content: bytes) -> bytes:
    """Another token in the place of one, a line doubled, gone or moved."""
    made = content.decode("utf-8", errors="surrogateescape")
    for _ in range(random.choice((1, 1, 2, 4))):
        lines = made.split("\n")
        tokens = list(re.finditer(r'"[^"\n]*"|[-+\w.]+|[\[\]{}:,=;#]', made))
        kind = random.randrange(5)
        if kind < 3 and tokens:
            found = random.choice(tokens)
            put = random.choice((random.choice(TOKENS), random.choice(tokens)[0], str(random.choice(NUMBERS))))
            made = made[: found.start()] + put + made[found.end() :]
        elif kind == 3:
            lines.insert(random.randrange(len(lines)), random.choice(lines))
            made = "\n".join(lines)
        else:
            del lines[random.randrange(len(lines))]
            made = "\n".join(lines)
    return made.encode("utf-8", errors="surrogateescape" if random.randrange(2) else "replace")


def pem(random: Random, content: bytes) -> bytes:
    """PEM (RFC 7468) whose DER is spoilt blindly."""
    first, *lines, last = content.decode().splitlines()
    made = base64.encodebytes(blind(random, base64.b64decode("".join(lines)))).decode()
    return f"{first}\n{made}{last}\n".encode()


def tree(random: Random, content: bytes) -> bytes:
    """JSON with one to three values of another type, gone, or new."""
    made = json.loads(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(made))
        if not places:
            break
        holder, key = random.choice(places)
        kind = random.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = deepcopy(holder[key])
        elif kind == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = random.choice((*NUMBERS, -holder[key], holder[key] * 1e9, 0.5))
        elif kind == 3:
            holder[key] = deepcopy(random.choice(places)[0])
        else:
            holder[key] = deepcopy(random.choice(VALUES))
    return json.dumps(made).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def members(inner: Mutation) -> Mutation:
    """A zip file whose members are spoilt, doubled, renamed, left out or packed; its checksums are right."""

    def mutate(random: Random, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = [(name, archive.read(name)) for name in archive.namelist()]
        kind, at = random.randrange(6), random.randrange(len(parts))
        name, body = parts[at]
        if kind < 3:
            parts[at] = (name, inner(random, body))
        elif kind == 3:
            parts[at] = (random.choice((parts[-1][0], "../../x", "/etc/x", "", name.upper(), "a/" * 300)), body)
        elif kind == 4:
            del parts[at]
        else:
            parts.append((name, random.choice((body, bytes(1 << 22), inner(random, body)))))
        made = io.BytesIO()
        packed = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packed) as archive:
            warnings.simplefilter("ignore")
            for part, body in parts:
                archive.writestr(zipfile.ZipInfo(part), body, packed)
        return made.getvalue()

    return mutate


def numpy_array(random: Random, content: bytes) -> bytes:
    """An array of NumPy with other values, another header, or another shape of the same size."""
    end = content.find(b"\n") + 1
    head, body = content[:end], content[end:]
    if random.randrange(2):
        return head + blind(random, body)
    swaps = (
        (b"<i8", b"<u8"),
        (b"<f4", b"<i4"),
        (b"<f8", b"<c8"),
        (b"False", b"True "),
        (b"|u1", b"|O1"),
        (b"(", b"(0,"),
    )
    old, new = random.choice(swaps)
    return head.replace(old, new) + body if old in head else blind(random, head) + body


def safetensors(random: Random, content: bytes) -> bytes:
    """Another header with its right length."""
    size = int.from_bytes(content[:8], "little")
    head = (tree if random.randrange(2) else text)(random, content[8 : 8 + size])
    return len(head).to_bytes(8, "little") + head + content[8 + size :]


def onnx(random: Random, content: bytes) -> bytes:
    """One to three fields of a model with other values, gone, doubled or taken from elsewhere in it."""
    import onnx as library

    model = library.load_model_from_string(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        messages = list(_messages(model))
        message = random.choice(messages)
        fields = message.DESCRIPTOR.fields
        named = [one for one, _ in message.ListFields()]
        field = random.choice(named if named and random.randrange(4) else list(fields))
        try:
            _change(random, message, field, messages)
        except (ValueError, TypeError, UnicodeEncodeError):  # the field takes no such value
            continue
    made: bytes = model.SerializeToString()
    return made


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if _repeated(field) else (value,):
                yield from _messages(one)


def _repeated(field: Any) -> bool:
    found = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if found is None else found)


def _change(random: Random, message: Any, field: Any, messages: list[Any]) -> None:
    kind = random.randrange(4)
    if kind == 0:
        message.ClearField(field.name)
        return
    alike = [one for one in messages if field.message_type is not None and one.DESCRIPTOR is field.message_type]
    if _repeated(field):
        values = getattr(message, field.name)
        if kind == 1 and len(values):
            del values[random.randrange(len(values))]
        elif field.message_type is not None:
            values.add().ParseFromString(_taken(random, alike))
        elif len(values) and random.randrange(2):
            values[random.randrange(len(values))] = _scalar(random, field, messages)
        else:
            values.append(_scalar(random, field, messages))
    elif field.message_type is not None:
        getattr(message, field.name).ParseFromString(_taken(random, alike))
    else:
        setattr(message, field.name, _scalar(random, field, messages))


def _taken(random: Random, alike: list[Any]) -> bytes:
    """A message as bytes: protobuf does not bear being copied into a part of itself."""
    return bytes(random.choice(alike).SerializeToString()) if alike else b""


def _scalar(random: Random, field: Any, messages: list[Any]) -> Any:
    if field.type == field.TYPE_STRING:
        names = [one.name for one in messages if one.DESCRIPTOR.name in ("TensorProto", "ValueInfoProto", "NodeProto")]
        return random.choice((*TEXTS, *random.sample(names, min(len(names), 9))))
    if field.type == field.TYPE_BYTES:
        return random.choice((b"", b"\0", random.randbytes(64), b"%s" % b"\xff" * 4096))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e38, float("nan"), float("inf"), 1e-40))
    return random.choice((*NUMBERS, *range(25)))


def either(*kinds: Mutation) -> Mutation:
    """One of several, at random."""

    def mutate(random: Random, content: bytes) -> bytes:
        return random.choice(kinds)(random, content)

    return mutate
