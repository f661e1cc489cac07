"""The command line: ``cprlib doctor``, ``build``, ``run``, ``lab``, ``prove``, ``report``, ``soak``."""
