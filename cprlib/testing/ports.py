"""Source ports of the test packets of a case."""

from __future__ import annotations

from cprlib.errors import InstrumentError

FIRST, LAST = 20_000, 32_767  # the kernel chooses from 32,768 on (Documentation/networking/ip-sysctl.rst)


class PortAllocator:
    """Gives each flow of a case ports of its own: a stateful reflector counts by session (RFC 8762, 4.3)."""

    def __init__(self) -> None:
        self._next = FIRST

    def take(self, count: int = 1) -> int:
        """Reserve ports that follow one another.

        :returns: the first one.
        :raises InstrumentError: fewer ports are left.
        """
        first = self._next
        if first + count - 1 > LAST:
            raise InstrumentError(
                f"reserve {count} ports", f"{LAST - first + 1} are left", "split the test into two cases"
            )
        self._next += count
        return first
