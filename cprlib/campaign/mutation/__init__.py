"""Proof that the suite can fail: builds by tests, and for each variant whether the right test catches it, and why."""
