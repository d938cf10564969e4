"""Models that learn from footage: tuned, trained, judged and quantised, and calibrated doubt.

Here is what needs networks, decoders and the configuration at once. Commands call it.
"""
