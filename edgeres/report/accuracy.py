"""The accuracy of one engine on a terminal: figures with their intervals, and what differs from FP32."""

from collections.abc import Sequence

from edgeres.figures import counted, points
from edgeres.schema import Accuracy, ClassAccuracy, Flip, McNemar

SHOWN = 5
"""Classes and flipped images that are named."""
SIGNIFICANT = 0.05


def lines(found: Accuracy, reference: Accuracy | None = None) -> list[str]:
    """What `edgeres eval` prints; `reference` is the accuracy of FP32 on the same images."""
    top5 = "" if found.top5 is None else f", top-5 {points(100 * found.top5)} %"
    rate = "" if found.images_per_second is None else f", {found.images_per_second:.1f} images/s"
    shown = [f"{counted(found.images)}{rate}: {_share('top-1', found.top1, found.top1_interval)}{top5}"]
    if reference and found.mcnemar and found.agreement is not None and found.agreement_interval:
        test = found.mcnemar
        drop = points(100 * (reference.top1 - found.top1))
        shown += [
            f"against FP32: drop {drop} points, {counted(test.lost)} lost and {test.gained} gained: "
            f"{significance(test)}",
            _share("agreement", found.agreement, found.agreement_interval),
        ]
    worst = _worst(found.classes)
    if len(found.classes) > 1 and worst:
        shown.append(f"{'classes that lose most' if reference else 'weakest classes'}: {'; '.join(map(_class, worst))}")
    if found.flipped:
        shown.append(f"changed: {_several(found.flipped)}")
    return shown


def significance(test: McNemar) -> str:
    """What the test says: `not significant, p = 0.63`."""
    p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.2g}"
    return f"{'significant' if test.p < SIGNIFICANT else 'not significant'}, {p}"


def _share(name: str, share: float, interval: tuple[float, float]) -> str:
    low, high = (100 * side for side in interval)
    return f"{name} {points(100 * share)} % (95 % {low:.1f} to {high:.1f})"


def _loss(one: ClassAccuracy) -> float:
    """By how much a class is worse than in FP32, or than perfect where nothing is compared."""
    return (1.0 if one.reference is None else one.reference) - one.top1


def _worst(classes: Sequence[ClassAccuracy]) -> list[ClassAccuracy]:
    return sorted((one for one in classes if _loss(one) > 0), key=_loss, reverse=True)[:SHOWN]


def _class(one: ClassAccuracy) -> str:
    before = "" if one.reference is None else f"{points(100 * one.reference)} to "
    return f"{one.name} ({counted(one.images)}) {before}{points(100 * one.top1)} %"


def _several(flipped: Sequence[Flip]) -> str:
    named = [f"{flip.name} ({flip.label}) from {flip.reference} to {flip.predicted}" for flip in flipped[:SHOWN]]
    return "; ".join(named) + (f" and {len(flipped) - SHOWN} more" if len(flipped) > SHOWN else "")
