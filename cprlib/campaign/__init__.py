"""Many jobs: mutation testing, soak and comparison, and what they share."""
