"""The parts that benchmarks share: options, results, clips, truth, runs of the engine."""
