"""Mutation testing of the suite: do the tests that must kill a mutant of QEMU do so, for the right reason?"""

AT_LEAST = 90.0  # percent of the generated mutants that must be killed
