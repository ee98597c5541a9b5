"""The REST API of Regraft."""
