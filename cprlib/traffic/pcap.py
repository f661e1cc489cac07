"""Write captured frames as a pcap with nanosecond stamps, by scapy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cprlib.errors import EnvironmentFailure
from cprlib.traffic.capture import RawFrame
from cprlib.traffic.flow import Flow
from cprlib.traffic.frame import FrameTemplate

ETHERNET = 1  # LINKTYPE_ETHERNET
BUFFER = 1 << 20  # bytes


def sent_frames(flow: Flow, sent_ns: Iterable[int]) -> list[RawFrame]:
    """The frames of a flow as they were sent, made again from the records: sending needs no second capture."""
    template = FrameTemplate(flow)
    frames = []
    for sequence, moment in enumerate(sent_ns):
        data = bytes(template.patch(sequence, moment))
        frames.append(RawFrame((moment, len(data), data)))
    return frames


def write_pcap(path: Path, frames: Iterable[RawFrame]) -> int:
    """Write frames in order of time; returns how many.

    :raises EnvironmentFailure: the file cannot be written.
    """
    from scapy.utils import PcapWriter  # noqa: PLC0415 - slow to import: only who writes pcaps pays

    ordered = sorted(frames, key=lambda frame: frame[0])
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = PcapWriter(str(aside), linktype=ETHERNET, nano=True, bufsz=BUFFER)
        try:
            writer.write_header(b"")
            for time_ns, length, data in ordered:
                seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
                writer.write_packet(data, sec=seconds, usec=nanoseconds, caplen=len(data), wirelen=length)
        finally:
            writer.close()
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EnvironmentFailure(f"write {path}", str(error), "free some space or choose another folder") from error
    return len(ordered)
