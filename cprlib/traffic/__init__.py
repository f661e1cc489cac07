"""The instrument that measures traffic: sender and capture, metrics, the ledger of missing packets, its own checks.

The path of a test packet through the modules: :mod:`flow` describes it, :mod:`frames` builds it, :mod:`sender` sends
it. The answer arrives in :mod:`ring`, :mod:`capture` records it, :mod:`packet_records` matches it with the packet sent
and with the reflector's log. :mod:`evaluation` applies :mod:`metrics` and :mod:`clock` and makes the :mod:`result`.
:mod:`ledger` assigns a missing packet to one of the :mod:`hops`, with the help of :mod:`kernel_drops`.
:mod:`control_run` decides whether the measurement is valid. :mod:`session` is the entry point for tests.
"""
