"""Descriptor tables of a process, and identity of open files between processes."""
