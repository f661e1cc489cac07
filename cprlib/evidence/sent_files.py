"""Which files an update sent, against those that the source's netdevs have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cprlib.evidence.records import Check
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.update.hooks import SentFd
from cprlib.words import listed


def sent_files_check(netdevs: Sequence[TapNetdev], sent: Sequence[SentFd]) -> Check:
    """The source sends the files of its netdevs with ``cpr=on``, under their names, each once, and no others.

    :param netdevs: the source's.
    """
    expected = {
        item.identifier: {"tap": item.queues} | ({"vhost": item.queues} if item.vhost else {})
        for item in netdevs
        if item.cpr
    }
    of_netdevs = [item for item in sent if item.file.kind != "memfd"]
    problems = [f"{item} belongs to no netdev" for item in of_netdevs if item.name not in expected]
    for name, kinds in expected.items():
        found = dict(Counter(item.file.kind for item in of_netdevs if item.name == name))
        if found != kinds:
            problems.append(f"{name}: {found or 'nothing'} instead of {kinds}")
    unknown = (TapSource.UNNAMED, TapSource.MACVTAP)  # the kernel chooses the name, or does not report it
    interfaces = {item.identifier: item.interface for item in netdevs if item.tap_source not in unknown}
    for item in of_netdevs:
        if item.file.kind == "tap" and item.file.interface != interfaces.get(item.name, item.file.interface):
            problems.append(f"{item} is not {interfaces[item.name]}")
        if len(item.source_numbers) != 1:
            problems.append(f"{item} is {len(item.source_numbers)} descriptors of the source")
    times = Counter((item.name, item.id) for item in sent)
    problems += [f"{name}/{number} was sent twice" for (name, number), count in times.items() if count > 1]
    text, total = listed(problems), sum(sum(kinds.values()) for kinds in expected.values())
    return Check.of(
        "sent-files",
        not problems,
        f"{total} descriptors of {len(expected)} netdevs in the CPR state, under their names",
        text or "no problem",
        f"the CPR state has {len(of_netdevs)} descriptors, not those of the netdevs: {text}",
    )
