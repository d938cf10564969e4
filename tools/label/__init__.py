"""Label frames by eye: proposals of several networks, pictures to judge them, decisions, labels.

benchmarks/truth/LABELS.md has the protocol and an example.
"""
