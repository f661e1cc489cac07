"""One entry per test packet, for the timeline plot: ``cases/<id>/packets.json``.

Columns instead of records keep the file small: 10,000 packets take about 400 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib import files
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import InstrumentError
from cprlib.evidence.case import PACKETS_FILE

PACKETS_VERSION = 1


@dataclass(frozen=True, slots=True)
class Packets:
    """The test packets of the main stream, in the order of sending.

    :param origin_ns: CLOCK_REALTIME in ns; all other times count from it.
    :param sent_us: time of sending, in microseconds.
    :param reflected_us: time of arrival at the reflector on the *host's* clock (its log, minus the clock offset); None
        for a packet that never arrived there.
    :param returned_us: time of arrival of the answer; None for an answer that never arrived.
    """

    origin_ns: int
    sent_us: tuple[int, ...]
    reflected_us: tuple[int | None, ...]
    returned_us: tuple[int | None, ...]
    packets_version: int = PACKETS_VERSION

    def __post_init__(self) -> None:
        if not len(self.sent_us) == len(self.reflected_us) == len(self.returned_us):
            raise ValueError("columns of unequal length")

    def write(self, folder: Path) -> Path:
        """Write ``packets.json`` into the case's folder, whole or not at all."""
        path = folder / PACKETS_FILE
        files.write_text(path, dump_json(self, indent=None), mode=0o600)
        return path

    @classmethod
    def read(cls, folder: Path) -> Packets | None:
        """Read ``packets.json``; None when the case has none.

        :raises InstrumentError: the file is cut off, or of another version.
        """
        path = folder / PACKETS_FILE
        if not path.exists():
            return None
        try:
            packets = load_json(cls, path.read_bytes())
        except (OSError, BadValue) as error:
            raise InstrumentError(f"read {path}", str(error)) from error
        if packets.packets_version != PACKETS_VERSION:
            happened = f"packets_version is {packets.packets_version}, this program reads {PACKETS_VERSION}"
            raise InstrumentError(f"read {path}", happened)
        return packets

    @classmethod
    def from_ns(
        cls, sent_ns: Sequence[int], reflected_ns: Sequence[int | None], returned_ns: Sequence[int | None]
    ) -> Packets:
        """From times in nanoseconds; the sending of the first packet becomes the origin."""
        origin = sent_ns[0] if sent_ns else 0

        def since(times_ns: Sequence[int | None]) -> tuple[int | None, ...]:
            return tuple(None if time_ns is None else (time_ns - origin) // 1000 for time_ns in times_ns)

        return cls(
            origin, tuple((time_ns - origin) // 1000 for time_ns in sent_ns), since(reflected_ns), since(returned_ns)
        )
