"""A QEMU: what a binary can do, its command line, a running machine, its QMP."""
