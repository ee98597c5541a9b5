"""Training and evaluation: `loop.train` and `evaluate.evaluate`."""
