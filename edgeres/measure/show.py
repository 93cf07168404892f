"""What `edgeres bench` prints of a measurement."""

from edgeres.figures import MISSING
from edgeres.measure.summary import TAIL, Measured
from edgeres.schema import Throughput


def text(found: Measured) -> str:
    """A line a figure, with its unit; what the runtime or the machine does not tell is said to be not available."""
    latency = found.latency
    low, high = latency.p50_interval or (latency.p50, latency.p50)
    tail = f"{latency.p999:.2f}" if latency.p999 is not None else f"{MISSING} under {TAIL:,} calls"
    runtime = f"p50 {latency.device_p50:.2f} ms" if latency.device_p50 is not None else MISSING
    rows = {
        "latency": f"p50 {latency.p50:.2f} ms (95 % {low:.2f} to {high:.2f}), p90 {latency.p90:.2f}, "
        f"p99 {latency.p99:.2f}, p99.9 {tail}; host to host, batch {latency.batch}",
        "measured": f"{len(latency.samples)} calls in {len(latency.rounds)} processes, warm after {latency.warmup}",
        "device alone": runtime,
        "throughput": _table(latency.throughputs) or f"{latency.throughput:.1f} images/s, one call after the other",
        "peak memory": f"{latency.peak_rss_mb:.0f} MB" if latency.peak_rss_mb is not None else MISSING,
        "energy": f"{latency.energy_mj:.1f} mJ an image" if latency.energy_mj is not None else MISSING,
        "ran": ", ".join(f"{name} {value}" for name, value in found.properties.items()),
        "steady": "yes" if latency.stable else "no\n" + "\n".join(latency.notes),
    }
    return "\n".join(f"{name:<14}{row}".replace("\n", "\n" + 14 * " ") for name, row in rows.items())


def _table(found: list[Throughput]) -> str:
    """Images a second: a row for each number of streams, a column for each batch."""
    lines = []
    for streams in dict.fromkeys(one.streams for one in found):
        rates = [f"{one.images_per_second:.1f} at batch {one.batch}" for one in found if one.streams == streams]
        calls = "one call after the other" if streams == 1 else f"{streams} calls at once"
        lines.append(f"images/s {', '.join(rates)}; {calls}")
    return "\n".join(lines)
