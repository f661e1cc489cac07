"""Two QEMUs against each other, and a run against a saved one: regression, improvement, no difference, or undecided."""
