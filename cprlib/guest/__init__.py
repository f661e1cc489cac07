"""The guest: its image, its console, and the agent in it."""
