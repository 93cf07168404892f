"""Files of `torch.save`, read without ever running their pickle."""

import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from edgeres import archive, disk
from edgeres.errors import EdgeresError, InputError


class Ignored:
    """Takes the place of an object that is kept beside the weights: accepts what a pickle gives, and keeps nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Plain:
    """Takes the place of a dictionary of another type: makes a plain one."""

    def __new__(cls, *_: object) -> Any:
        return {}


def _stand_ins(base: type, *names: str) -> list[Any]:
    parts = (name.rpartition(".") for name in names)
    return [type(name, (base,), {"__module__": module}) for module, _, name in parts]


PATHS = [kind + flavour + "Path" for kind in ("", "Pure") for flavour in ("Posix", "Windows")]
BESIDE = _stand_ins(
    Ignored,
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "torch.torch_version.TorchVersion"),
    *("builtins.dict", "builtins.list", "builtins.int", "builtins.float"),
) + _stand_ins(
    Plain,
    "collections.defaultdict",
    *(f"{fabric}.utilities.data.AttributeDict" for fabric in ("lightning_fabric", "lightning.fabric")),
    *(f"{pytorch}.utilities.parsing.AttributeDict" for pytorch in ("pytorch_lightning", "lightning.pytorch")),
)
"""The objects that training loops keep beside weights, as arguments and scores. None of them is made, so that none of
their code runs: each name stands for one of ours. A file with any other object is refused."""


def inspect(path: Path) -> None:
    """Look at an archive before torch does, which holds no member against its checksum. It keeps members as they are,
    so that none can unpack to more than the file. UsageError where there is no file, any other exception where it is
    not whole; nothing where it is no archive."""
    with disk.opened(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                archive.check(opened, path.stat().st_size)
                if damaged := opened.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is not what was written")


def read(path: Path) -> Any:
    """What `torch.save` wrote; InputError where it is damaged, or holds other objects than tensors, plain values and
    those of `BESIDE`."""
    try:
        inspect(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(BESIDE):
            warnings.simplefilter("ignore")  # of what is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        named = f" ({found[1]})" if found else ""
        raise InputError(
            f"{path} is refused: it holds pickled objects{named}, which can run code, or is damaged; "
            "save `model.state_dict()` alone, or .safetensors."
        ) from None
    except EdgeresError:
        raise
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program; save its weights alone, `torch.jit.load(path).state_dict()`."
            ) from None
        # Of what is no pickle, the reader names a byte that it does not know.
        known = "it ends early" if isinstance(error, EOFError) else "it is no pickle" if type(error) is KeyError else ""
        reason = known or f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
        raise InputError(f"{path} is not a checkpoint of torch ({reason}); give .pth or .safetensors.") from None
