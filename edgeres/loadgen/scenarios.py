"""MLPerf's scenarios, and the figures that its rules set for them."""

from dataclasses import dataclass

from edgeres.errors import UsageError

OFFICIAL_SECONDS = 600.0
"""Shortest official run: `*.min_duration` in LoadGen's mlperf.conf."""
OFFICIAL_QUERIES = {"multi-stream": 662, "offline": 24_576}
"""Fewest queries, in Offline images, of an official run: there as well, for resnet50; LoadGen's early stopping asks for
more where a percentile is still uncertain."""
SERVER_MS = 15.0
"""The latency that 99 % of Server's queries must keep: there as well, for resnet50."""
LOADED = 1024
"""Most images held in memory at once: there as well, for resnet50."""
IMAGES = 8
"""A query of MultiStream."""


@dataclass(frozen=True)
class Scenario:
    """`mode` is LoadGen's name; `key` of its detail log holds the `metric`, in nanoseconds where `unit` is ms, and
    `estimate` what early stopping takes it for."""

    mode: str
    metric: str
    unit: str
    key: str
    estimate: str = ""


SCENARIOS = {
    "single-stream": Scenario(
        "SingleStream",
        "90th percentile latency",
        "ms",
        "result_90.00_percentile_latency_ns",
        "early_stopping_latency_ss",
    ),
    "multi-stream": Scenario(
        "MultiStream",
        f"99th percentile latency of {IMAGES} images",
        "ms",
        "result_99.00_percentile_per_query_latency_ns",
        "early_stopping_latency_ms",
    ),
    "server": Scenario("Server", "scheduled rate", "queries/s", "result_scheduled_samples_per_sec"),
    "offline": Scenario("Offline", "throughput", "images/s", "result_samples_per_second"),
}


def find(scenario: str) -> Scenario:
    """UsageError where there is no such scenario."""
    if scenario not in SCENARIOS:
        raise UsageError(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}.")
    return SCENARIOS[scenario]
