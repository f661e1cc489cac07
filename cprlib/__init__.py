"""Live-update verification for QEMU guest networking: helpers for an Avocado functional suite.

docs/architecture.md names the packages and the order of their imports. Importing :mod:`cprlib` itself needs nothing but
the standard library, so that the bootstrap can run on a system on which only Python is installed.
"""

__version__ = "0.1.0"
