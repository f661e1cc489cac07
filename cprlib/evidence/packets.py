"""The sidecar of a case with one entry per test packet, for the timeline picture: ``cases/<id>/packets.json``.

Columns instead of records keep it small: 10,000 packets are about 400 KB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib import files
from cprlib.errors import InstrumentError
from cprlib.evidence.case import PACKETS_FILE

PACKETS_VERSION = 1


@dataclass(frozen=True, slots=True)
class Packets:
    """What became of each test packet of the main stream, in the order of sending.

    :param origin_ns: CLOCK_REALTIME nanoseconds that all moments below are counted from.
    :param sent_us: moment of sending, microseconds since the origin.
    :param reflected_us: moment of arrival at the reflector on the *host's* clock (its log, less the clock offset);
        None for a packet that never came there.
    :param returned_us: moment the reply came back; None for one that did not.
    """

    origin_ns: int
    sent_us: tuple[int, ...]
    reflected_us: tuple[int | None, ...]
    returned_us: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if not len(self.sent_us) == len(self.reflected_us) == len(self.returned_us):
            raise ValueError("columns of unequal length")

    def write(self, folder: Path) -> Path:
        """Write the sidecar into the case's folder, whole or not at all."""
        path = folder / PACKETS_FILE
        value = {
            "packets_version": PACKETS_VERSION,
            "origin_ns": self.origin_ns,
            "sent_us": self.sent_us,
            "reflected_us": self.reflected_us,
            "returned_us": self.returned_us,
        }
        files.write_text(path, json.dumps(value, separators=(",", ":")) + "\n", mode=0o600)
        return path

    @classmethod
    def read(cls, folder: Path) -> Packets | None:
        """Read the sidecar; None when the case has none.

        :raises InstrumentError: the file is cut off or no such sidecar.
        """
        path = folder / PACKETS_FILE
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["packets_version"] != PACKETS_VERSION:
                raise ValueError(f"packets_version {value['packets_version']!r} is not {PACKETS_VERSION}")
            return cls(
                origin_ns=_moment(value["origin_ns"]),
                sent_us=tuple(_moment(moment) for moment in value["sent_us"]),
                reflected_us=_moments(value["reflected_us"]),
                returned_us=_moments(value["returned_us"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InstrumentError(f"read {path}", f"{type(error).__name__}: {error}") from error

    @classmethod
    def from_ns(
        cls, sent_ns: Sequence[int], reflected_ns: Sequence[int | None], returned_ns: Sequence[int | None]
    ) -> Packets:
        """From absolute moments in nanoseconds; the first packet's sending becomes the origin."""
        origin = sent_ns[0] if sent_ns else 0

        def since(moments: Sequence[int | None]) -> tuple[int | None, ...]:
            return tuple(None if moment is None else round((moment - origin) / 1000) for moment in moments)

        return cls(origin, tuple(round((m - origin) / 1000) for m in sent_ns), since(reflected_ns), since(returned_ns))


def _moment(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no moment")
    return value


def _moments(values: Sequence[object]) -> tuple[int | None, ...]:
    return tuple(None if value is None else _moment(value) for value in values)
