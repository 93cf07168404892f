"""The fastest engine that is still right: what can be varied, measured on the target itself.

space.py    what a candidate is, and which there are for a target
race.py     candidates measured in turn, the slower ones dropped as soon as that is sure
trials.py   every measurement kept, so that a run that was stopped goes on
search.py   files first, then how the runtime runs the best of them; the choice with its reasons
"""

from edgeres.tune.search import Tuned, tune

__all__ = ["Tuned", "tune"]
