"""Networks, boxes and tracks: arrays in, arrays out.

A picture's way: `picture` (planar YUV, or a coded one by `picture_coding`) -> `gate`: which parts
are new -> `picture` again: a network's input -> `detector`: boxes, its outputs read by `formats` ->
`tracking`: tracks, and which boxes are shown. `boxes` is the type that all of these pass on;
`matching` pairs the boxes of two sets that show the same thing.

A model's way: `training` made the shipped `weights`; `conversion` brings a user's file into the
`registry`, `quantisation` makes it smaller.
"""

import sys

# OpenVINO's package reports each import to its maker over the network where this module is found;
# without it, it falls back to a stub. A product that sees cameras reports nothing to anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
