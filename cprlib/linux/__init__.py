"""Linux: descriptors, network namespaces, taps, counters, tracepoints, procfs, and libc calls that Python lacks."""
