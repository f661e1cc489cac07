"""Is QEMU B worse than QEMU A? Regression, improvement, no difference, or undecided."""
