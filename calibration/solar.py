"""Draw the split of the ELPV solar-cell images into training, test and calibration manifests.

    python calibration/solar.py      # rewrites calibration/solar.{train,test,calibration}.csv

Reads the images of the `elpv-dataset` package (CC BY-NC-SA 4.0). A cell is `defective` where its annotated defect
probability is at least one half. A quarter of every stratum (annotated probability x mono- or polycrystalline) is
the test set, as in Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images" (arXiv:1807.02894); within a stratum cells stand in the order of their SHA-256, so the
draw has no seed and no machine can draw another. The calibration set is the first 128 training cells in that order.
"""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import elpv_dataset

ROOT = Path(elpv_dataset.__file__).parent / "data"
HERE = Path(__file__).parent
CALIBRATION = 128


def main() -> None:
    strata = defaultdict(list)
    for line in (ROOT / "labels.csv").read_text().splitlines():
        path, probability, kind = line.split()
        digest = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        label = "defective" if float(probability) >= 0.5 else "functional"
        strata[probability, kind].append((digest, path, label))
    split: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    for cells in strata.values():
        cells.sort()
        cut = round(len(cells) / 4)
        split["test"] += cells[:cut]
        split["train"] += cells[cut:]
    split["calibration"] = sorted(split["train"])[:CALIBRATION]
    for name, cells in split.items():
        with (HERE / f"solar.{name}.csv").open("w", newline="") as file:
            file.write("# root = package:elpv_dataset/data\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "sha256", "label"])
            writer.writerows((path, digest, label) for digest, path, label in sorted(cells, key=lambda cell: cell[1]))
        print(f"{name}: {len(cells)} cells, {sum(cell[2] == 'defective' for cell in cells)} defective")


if __name__ == "__main__":
    main()
