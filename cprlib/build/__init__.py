"""QEMU sources and a series become builds and variants; guest and lab images: everything kept by content."""
