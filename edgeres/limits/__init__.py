"""How close an engine is to what the machine allows.

roofline.py   each layer's time against the peaks of this machine in the same runtime
bound.py      the most images a second under a bound of p99
show.py       both as text and as JSON; picture.py as SVG
"""
