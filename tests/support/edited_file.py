"""A configuration file that tests edit, and the lines of a rule for it."""

from __future__ import annotations

DARK = ("events", "rules", "dark")
LOST = '[events.rules.dark]\n# a comment of the rule\nwhen = "state"\nstate = "lost"\n'
FILE = """\
# my cameras
[sources.gate]
url = "gate.mp4"  # the front

[events.areas.door]
points = [
  [0.1, 0.1],
  [0.9, 0.1],
  [0.5, 0.9]
]

[events.rules.visitor]
when = "inside"
area = "door"

# the gate is off: it is dark there
[gate]
mode = "off"
"""
