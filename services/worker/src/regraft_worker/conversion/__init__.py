"""Checkpoints from one format to another: Hugging Face, Cerebras releases 1.7 to 2.9, this project's decoder."""
