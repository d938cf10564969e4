"""Detectors: networks on OpenVINO, decoding and fusion of boxes, and a cache of answers.

`detector` is the entry point: the light detector and the heavy pass. A detector has members
(`member`: a network at one input size, with its decoder), whose networks OpenVINO computes
(`network`). `fusion` joins the boxes of the heavy pass's members. `policy` contains the frozen
thresholds. `precision_trial` measures the fastest precision and number of threads on this machine.
`answer_cache` finds answers to repeated inputs.
"""
