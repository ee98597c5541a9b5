"""Checkpoints from one format to another: Hugging Face folders, Cerebras cs-1.8 files, this project's decoder."""
