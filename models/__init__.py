"""Networks, boxes and tracks: arrays in, arrays out."""

import sys

# OpenVINO's package reports each import to its maker over the network where this module is found;
# without it, it falls back to a stub. A product that sees cameras reports nothing to anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
