"""Models that learn from footage: tuned, trained, judged and quantised; thresholds of doubt.

Here is what needs networks, decoders and the configuration at once. Commands call it.
"""
