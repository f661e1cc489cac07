"""Random cases for hours: does a case fail, or do memory, descriptors or disk of the harness grow?"""
