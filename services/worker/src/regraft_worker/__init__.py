"""Compute stages: convert, train, evaluate, export."""
