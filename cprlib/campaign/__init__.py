"""Many jobs: mutation testing, soak, comparison and scoreboard, and what they share."""
