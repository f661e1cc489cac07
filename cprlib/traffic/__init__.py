"""Measuring traffic: STAMP sender and capture, metrics, ledger of missing packets, the instrument's own check.

The order of use is: :mod:`flow` says what is sent, :mod:`session` sends and captures it, :mod:`result` gives the
figures per direction, :mod:`control run` says whether they may be believed, :mod:`ledger` where a packet went.
"""
