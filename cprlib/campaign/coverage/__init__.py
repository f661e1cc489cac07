"""Coverage of the lines that the series adds to QEMU by the tests of the suite."""
