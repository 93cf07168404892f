"""The search: files first, then how the runtime runs the best of them.

All files race; then the fastest is fitted and judged on labelled images, and where it loses too much the next one. If
none that is faster than FP32 holds the bound, layers are left in float until one does.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from edgeres import backends, engines, evaluate, locks, machine, onnx_io, store
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError
from edgeres.evaluate import Predictions
from edgeres.measure import Subject, measure
from edgeres.progress import Progress, Silent
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph
from edgeres.quantization.quantize import AUTO, METHOD, quantize
from edgeres.quantization.sensitivity import within
from edgeres.tune import space
from edgeres.tune.race import EQUAL, Lane, race
from edgeres.tune.space import Candidate, Choice
from edgeres.tune.trials import Quality, Trials, key
from edgeres.types import Frame, Target

EXACT = Candidate(Choice(None))
"""FP32 as the runtime runs it by itself."""
RAW, FITTED = "fast", "balanced"
"""Levels: the values of weights do not change how fast a file runs, so that only files that may win are fitted."""


@dataclass(frozen=True)
class Trial:
    """One candidate that was looked at, and in `verdict` why it was or was not chosen. `lane` None: it did not race."""

    candidate: Candidate
    quality: Quality | None
    lane: Lane[Candidate] | None
    verdict: str

    @property
    def p50(self) -> float | None:
        """Milliseconds, the median of its rounds; None where it did not race."""
        return self.lane.p50 if self.lane else None


@dataclass(frozen=True)
class Tuned:
    """The chosen candidate with its engine; `reference` is EXACT; all `trials`, judged on so many labelled `images`;
    `methods` are the range methods that were compared for its file, with the SQNR of the logits in dB: the best is
    used."""

    best: Trial
    engine: Path
    reference: Trial
    trials: tuple[Trial, ...]
    images: int
    methods: dict[str, float]

    @property
    def method(self) -> str:
        """The range method of the chosen file."""
        return max(self.methods, key=self.methods.__getitem__, default=METHOD)


def tune(
    model: Path,
    target: Target,
    calibration: ImageSet,
    validation: ImageSet,
    folder: Path,
    *,
    max_drop: float,
    minutes: float,
    frame: Frame | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """The fastest engine of an FP32 ONNX file for a target whose top-1 on labelled `validation` images is at most
    `max_drop` points below FP32's on the same images and target.

    Everything is measured on this machine, at batch 1, and kept in `folder`: called again, it goes on where it was.
    After `minutes` a race ends as soon as each candidate has run `race.FEWEST` rounds. `frame` lets the engines take
    camera bytes. Raises what the steps raise; UsageError where the sets share images.
    """
    validation.refuse(calibration.contents, str(calibration.source))
    return _Search(model, target, calibration, validation, folder, max_drop, minutes, frame, progress or Silent()).run()


@dataclass
class _Search:
    model: Path
    target: Target
    calibration: ImageSet
    validation: ImageSet
    folder: Path
    max_drop: float
    minutes: float
    frame: Frame | None
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    def run(self) -> Tuned:
        with self.progress.step("calibrate", len(self.calibration)) as advance:
            calibrate(self.model, self.calibration, self.statistics, advance)
        layers = [node.name for node in Graph.of(onnx_io.load(self.model), self.model).layers]
        files = [Candidate(choice) for choice in space.choices(self.target, layers, machine.describe().features)]
        lanes = self._race("files", files)
        best = next(lane.candidate for lane in lanes if self._right(lane.candidate))
        if best == EXACT and lanes[0].candidate != EXACT:
            rescue = self._race("what holds the bound", [self._rescued(files[0].choice), EXACT])
            best, lanes = rescue[0].candidate, [*lanes, *rescue]
        ways = [*space.runs(self.target, best.choice), EXACT]
        settled = self._race(f"ways to run {best.choice.name}", list(dict.fromkeys(ways)))
        gains = _gains(settled, Candidate(best.choice))
        if len(gains) > 1:
            together = self._race(f"{best.choice.name}, several at once", [*space.combined(gains), EXACT])
            settled = [*together, *(lane for lane in settled if lane.candidate not in [*gains[:1], EXACT])]
        best = next(lane.candidate for lane in settled if self._right(lane.candidate))
        raced = {lane.candidate: lane for lane in [*lanes, *settled]}
        tried = {one: self._trial(one, raced.get(one), best) for one in [*files, *raced]}
        engine, count = self._engine(best, FITTED), len(self.validation)
        return Tuned(tried[best], engine, tried[EXACT], tuple(tried.values()), count, self._methods(best))

    def _methods(self, candidate: Candidate) -> dict[str, float]:
        """The range methods that were compared for its file, SQNR in dB."""
        sidecar = store.read_sidecar(self._file(candidate.choice, FITTED)) if candidate.choice.scheme else None
        return dict(sidecar.results.get("sqnr", {})) if sidecar else {}

    @cached_property
    def trials(self) -> Trials:
        sets = self.calibration.digest, self.validation.digest
        known = key(self.model, str(self.target), *sets, engines.packages(self.target))
        if self.frame:
            known = {**known, "input": self.frame}
        return Trials(self.folder / "trials.jsonl", known)

    @property
    def statistics(self) -> Path:
        return self.folder / "model.stats"

    def _right(self, candidate: Candidate) -> bool:
        return self._quality(candidate).drop <= self.max_drop

    def _quality(self, candidate: Candidate) -> Quality:
        if candidate.name not in self.trials.qualities:
            found = self._exact if candidate == EXACT else self._predicted(candidate)
            one, exact = evaluate.accuracy(found, self._exact), evaluate.accuracy(self._exact)
            self.trials.judged(candidate, Quality(one.top1, 100 * (exact.top1 - one.top1), one.agreement or 0.0))
        quality = self.trials.qualities[candidate.name]
        self.progress.say(f"{candidate.name}: top-1 drop {quality.drop:+.2f} points, agreement {quality.agreement:.1%}")
        return quality

    @cached_property
    def _exact(self) -> Predictions:
        return self._predicted(EXACT)

    def _predicted(self, candidate: Candidate) -> Predictions:
        engine, settings = self._engine(candidate, FITTED), dict(candidate.settings)
        with self.progress.step(f"evaluate {candidate.name}", len(self.validation)) as advance:
            return evaluate.predict(
                engine, self.target, self.validation, threads=candidate.threads, settings=settings, progress=advance
            )

    def _rescued(self, choice: Choice) -> Candidate:
        """The choice with as few layers in float as hold the bound."""
        self.progress.say("every file that is faster than FP32 loses too much; layers are left in float")
        with locks.scratch() as folder:
            found = within(
                self.model,
                self.statistics,
                folder / "kept.onnx",
                folder,
                max_drop=self.max_drop,
                validation=self.validation,
                scheme=str(choice.scheme),
                level=FITTED,
                images=self.calibration,
                say=self.progress.say,
            )
        return Candidate(replace(choice, keep=found.kept))

    def _race(self, title: str, candidates: Sequence[Candidate]) -> list[Lane[Candidate]]:
        """Those in the race, the winner first; one that the runtime refuses is out of it."""
        built = {candidate: path for candidate in candidates if (path := self._built(candidate))}
        with self.progress.step(f"race: {len(built)} {title}", None) as advance:

            def timed(candidate: Candidate) -> float:
                settings = dict(candidate.settings)
                subject = Subject(built[candidate], self.target, 1, candidate.threads, settings)
                (found,) = measure([subject], 1, advance)
                self.trials.timed(title, candidate, found.latency.p50)
                return found.latency.p50

            return race(list(built), timed, partial(self.trials.of, title), self._late)

    def _late(self) -> bool:
        return time.monotonic() - self.started > 60 * self.minutes

    def _built(self, candidate: Candidate) -> Path | None:
        """Its engine; None where the runtime refuses it."""
        try:
            return self._engine(candidate)
        except EdgeresError as error:
            self.progress.say(f"{candidate.name}: {error}")
            return None

    def _file(self, choice: Choice, level: str) -> Path:
        return self.folder / f"{level}-{_slug(choice.name)}.onnx"

    def _engine(self, candidate: Candidate, level: str = RAW) -> Path:
        """Built where it is not there yet; engines that differ in threads alone are one file."""
        model, choice = self.model, candidate.choice
        if choice.scheme:
            model = self._file(choice, level)
            with self.progress.step(f"quantize {choice.name}, {level}", None) as advance:
                quantize(
                    self.model,
                    self.statistics,
                    model,
                    scheme=choice.scheme,
                    # Ranges do not change how fast a file runs either.
                    method=METHOD if level == RAW else AUTO,
                    level=level,
                    images=self.calibration,
                    keep=choice.keep,
                    progress=advance,
                )
        file = f"{level}-{_slug(replace(candidate, threads=None).name)}{backends.find(self.target).suffix}"
        engines.build(
            model,
            self.target,
            self.folder / "engines" / file,
            batch=candidate.batch,
            settings=dict(candidate.settings),
            frame=self.frame,
        )
        return self.folder / "engines" / file

    def _trial(self, candidate: Candidate, lane: Lane[Candidate] | None, best: Candidate) -> Trial:
        quality = self.trials.qualities.get(candidate.name)
        if candidate == best:
            verdict = "chosen"
        elif quality and quality.drop > self.max_drop:
            verdict = f"loses {quality.drop:.2f} points of top-1, more than {self.max_drop:g}"
        elif lane is None:
            verdict = "the runtime refuses it"
        elif lane.dropped:
            verdict = f"slower by {lane.ratio - 1:.1%}, sure after {len(lane.times)} rounds"
        else:
            low, high = (100 * (side - 1) for side in lane.interval)
            verdict = f"not to be told from the leader: {low:+.1f} to {high:+.1f} % in {len(lane.times)} rounds"
        return Trial(candidate, quality, lane, verdict)


def _gains(settled: Sequence[Lane[Candidate]], plain: Candidate) -> list[Candidate]:
    """The ways to run that are faster than the runtime's own defaults by more than nothing, the fastest first, those
    that lost to it in the race among them."""
    ratios = {lane.candidate: lane.ratio for lane in settled if lane.candidate.choice == plain.choice}
    slower = ratios.get(plain, math.inf)
    return sorted((one for one, ratio in ratios.items() if ratio * EQUAL < slower), key=ratios.__getitem__)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=+]+", "-", name)
