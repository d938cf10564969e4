"""Learning from a camera's own footage, without torch: examples, teacher, thresholds, judgement."""
