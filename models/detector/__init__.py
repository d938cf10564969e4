"""Networks on OpenVINO, decoding of outputs, fusion, choice of precision by a trial, cache of
answers.

`detector` is the door: the light detector and the heavy pass. Each has members (`member`: a network
at one input size with its decoding), whose networks OpenVINO computes (`network`); boxes of several
members become one set (`fusion`). `policy` has the frozen thresholds, `precision_trial` measures
which precision and how many threads serve this CPU best, `answer_cache` knows answers to inputs
that were seen before.
"""
