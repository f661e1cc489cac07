"""Mutation testing of the suite: do the tests that must kill a mutant of QEMU do so, for the right reason?"""
