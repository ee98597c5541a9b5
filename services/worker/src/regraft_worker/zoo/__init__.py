"""Runs described by a Cerebras Model Zoo params file: what `regraft run` does."""
