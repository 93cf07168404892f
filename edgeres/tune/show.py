"""What a search found, as text and as JSON."""

from dataclasses import asdict
from typing import Any

from edgeres.figures import number
from edgeres.tune.race import EQUAL
from edgeres.tune.search import Trial, Tuned


def text(found: Tuned) -> str:
    """The choice first, then all trials and why each was not it."""
    best, exact = found.best, found.reference
    faster = f"{exact.lane.ratio:.2f}x as fast as FP32" if exact.lane else ""
    rivals = sum(
        t is not best and t.lane is not None and not t.lane.dropped and t.lane.ratio > EQUAL for t in found.trials
    )
    doubt = f"not settled: {rivals} others may be as fast; give more --minutes, or a quieter machine" if rivals else ""
    lost = f"top-1 drop {best.quality.drop:+.2f} points on {found.images} images" if best.quality else ""
    compared = ", ".join(f"{method} {decibels:.1f}" for method, decibels in found.methods.items())
    ranges = f"range method {found.method}: SQNR of the logits in dB {compared}" if compared else ""
    head = [f"{best.candidate.name}: {faster}, {lost}", *filter(None, [ranges, doubt]), f"engine: {found.engine}"]
    return "\n".join([*head, *map(_line, found.trials)])


def _line(trial: Trial) -> str:
    time = f"{number(trial.p50)} ms" if trial.p50 else "not run"
    return f"{time:>12}  {trial.candidate.name}: {trial.verdict}"


def to_json(found: Tuned) -> dict[str, Any]:
    """Every trial with its figures; the chosen one by its name."""
    trials = [{"name": trial.candidate.name, "p50_ms": trial.p50, **asdict(trial)} for trial in found.trials]
    return {
        "best": found.best.candidate.name,
        "engine": str(found.engine),
        "images": found.images,
        "methods": found.methods,
        "trials": trials,
    }
