"""The measuring process: `python -m edgeres.measure latency|throughput REQUEST`."""

import sys

from edgeres.measure.child import main

main(*sys.argv[1:])
