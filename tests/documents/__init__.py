"""Run the commands that the documents show: ``python -m tests.documents``."""
