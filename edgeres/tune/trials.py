"""Every measurement kept, one line of JSON each, so that a run that was stopped goes on where it was."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres import disk, machine, store
from edgeres.errors import InputError
from edgeres.tune.space import Candidate


@dataclass(frozen=True)
class Quality:
    """How right a choice is: `top1` of 1, points of top-1 lost against FP32 on the same images, `agreement` with it."""

    top1: float
    drop: float
    agreement: float


class Trials:
    """The lines of one file that belong to one network, data, target and machine: its `key`."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.key = {**key, "machine": machine.describe().identity}
        self.times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.qualities: dict[str, Quality] = {}
        text = disk.read_text(path) if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # stopped in the middle of a line
            disk.write_bytes(path, whole.encode())
        try:
            for line in whole.splitlines():
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path} holds a line that is no trial ({error}); remove the file.") from None

    def _take(self, line: Mapping[str, Any]) -> None:
        if line["key"] != self.key:
            return
        if "ms" in line:
            if not 0 < line["ms"] < math.inf:
                raise ValueError(f"{line['ms']} ms")
            self.times[line["race"], line["candidate"]].append(float(line["ms"]))
        else:
            quality = Quality(**line["quality"])
            if not all(map(math.isfinite, vars(quality).values())):
                raise ValueError(str(quality))
            self.qualities[line["candidate"]] = quality

    def timed(self, race: str, candidate: Candidate, ms: float) -> None:
        """Keep one round's median of a candidate in a race."""
        self._write({"race": race, "candidate": candidate.name, "ms": ms})

    def judged(self, candidate: Candidate, quality: Quality) -> None:
        """Keep how right a candidate is."""
        self._write({"candidate": candidate.name, "quality": vars(quality)})

    def of(self, race: str, candidate: Candidate) -> Sequence[float]:
        """The rounds that are known of a candidate in a race, ms."""
        return tuple(self.times[race, candidate.name])

    def _write(self, line: Mapping[str, Any]) -> None:
        whole = {"key": self.key, **line}
        self._take(whole)
        disk.append(self.path, json.dumps(whole) + "\n")


def key(model: Path, target: str, calibration: str, validation: str, packages: Sequence[str]) -> dict[str, Any]:
    """What two measurements must share to belong to one search; the image sets by their digests."""
    return {
        "model": disk.digest(model),
        "target": target,
        "calibration": calibration,
        "validation": validation,
        "versions": store.versions("edgeres", *packages),
    }
