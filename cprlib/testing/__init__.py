"""The framework of the suite's tests: base class, guest, case, background traffic, checks."""
