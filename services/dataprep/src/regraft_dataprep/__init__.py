"""Data preparation: any corpus to Cerebras-layout HDF5."""
