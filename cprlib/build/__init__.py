"""QEMU sources and a series become builds and mutants; guest and lab images: everything kept by content."""
