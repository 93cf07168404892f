"""A measuring process that is a real one and measures nothing."""

import time

from edgeres import processes

MEASURED = {
    "in_place": {
        "samples": [1.0 + 0.01 * (index % 7) for index in range(60)],
        "device": [],
        "batch": 1,
        "warmup": 20,
        "steady": True,
        "properties": {"runtime": "canned"},
        "conditions": {"cores": 2.0, "others": 0.0, "stolen": 0.0, "switches": 0.0, "threads": 1},
        "peak_rss_mb": 50.0,
        "energy_mj": None,
    },
    "throughput": {"throughputs": [{"batch": 1, "streams": 1, "images_per_second": 1000.0}]},
}


def main(task: str, request: str) -> None:
    time.sleep(0.03)
    processes.answer(lambda: MEASURED[task])
