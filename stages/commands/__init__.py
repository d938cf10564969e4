"""Commands that need models: calibrate, quantise, the registry, training of doubt."""
