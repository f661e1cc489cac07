"""The command line: ``cprlib doctor``, ``build``, ``run``, ``lab``, ``report``."""
