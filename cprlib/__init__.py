"""Live-update verification for QEMU guest networking: helpers for an Avocado functional suite.

Packages, each a noun, with imports in one direction (a package may import those before it)::

    errors  deadline  files  process  cleanup  codec  linux  traffic  qemu  guest  update  evidence  verdict  report
    build  lab  testing  campaign  cli

Importing :mod:`cprlib` itself needs nothing but the standard library, so that the bootstrap can run on a
system on which only Python is installed.
"""

__version__ = "0.1.0"
