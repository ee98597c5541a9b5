"""Regraft: continued pre-training of language models as one request."""
