"""The live update: mechanisms, the act itself, what was seen of it."""
