"""Random cases for hours: does any fail, and do memory, descriptors and disk of the harness stay flat?"""
