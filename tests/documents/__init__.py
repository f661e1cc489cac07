"""A reader who types what the documents show: ``python -m tests.documents``."""
