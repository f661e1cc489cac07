"""Private network namespaces, taps, bridges and counters, all by netlink."""
