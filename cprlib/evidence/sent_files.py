"""Which files an update sent, against those that the source's netdevs have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from cprlib.evidence.records import Check, Outcome
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.update.hooks import SentFd
from cprlib.words import listed


def sent_files_check(
    netdevs: Sequence[TapNetdev], sent: Sequence[SentFd], state: bytes = b"", removed: Collection[str] = ()
) -> Check:
    """The source sends the files of its netdevs with ``cpr=on``, under their names, each once, and no others.

    In the CPR state, the id of such a netdev may occur once more than it has descriptors. The id of another netdev must
    not occur.

    :param netdevs: the source's.
    :param state: the bytes of the CPR state.
    :param removed: ids of netdevs that the source had before.
    :returns: inconclusive when no descriptor has a name: this QEMU's CPR state has another layout.
    """
    required = {
        item.identifier: {"tap": item.queues} | ({"vhost": item.queues} if item.vhost else {})
        for item in netdevs
        if item.cpr
    }
    total = sum(sum(kinds.values()) for kinds in required.values())
    expected = f"{total} descriptors of {len(required)} netdevs in the CPR state, under their names"
    if sent and not any(item.name for item in sent):
        return Check("sent-files", Outcome.INCONCLUSIVE, expected, f"{len(sent)} descriptors, and no name before any")
    of_netdevs = [item for item in sent if item.file.kind != "memfd"]
    problems = [f"a descriptor ({item.file.kind}) has no name" for item in sent if not item.name]
    problems += [f"{item} belongs to no netdev" for item in of_netdevs if item.name and item.name not in required]
    for name, kinds in required.items():
        seen = dict(Counter(item.file.kind for item in of_netdevs if item.name == name))
        if seen != kinds:
            problems.append(f"{name}: {seen or 'nothing'} instead of {kinds}")
    named = [item for item in netdevs if not (item.kernel_names_tap or item.tap_source is TapSource.MACVTAP)]
    interfaces = {item.identifier: item.interface for item in named}  # the kernel reports none of a macvtap
    for item in of_netdevs:
        if item.file.kind == "tap" and item.file.interface != interfaces.get(item.name, item.file.interface):
            problems.append(f"{item} is not {interfaces[item.name]}")
        if len(item.source_numbers) != 1:
            problems.append(f"{item} is {len(item.source_numbers)} descriptors of the source")
    times = Counter((item.name, item.id) for item in sent if item.name)
    problems += [f"{name}/{number} was sent twice" for (name, number), count in times.items() if count > 1]
    names = {item.identifier for item in netdevs} | set(removed)
    for name, count in sorted((name, _occurrences(name, state)) for name in names):
        descriptors = sum(item.name == name for item in of_netdevs)
        if count > (descriptors + 1 if name in required else 0):
            problems.append(f"{name} is {count} times in the CPR state, with {descriptors} descriptors")
    found = listed(problems)
    message = f"the CPR state has {len(of_netdevs)} descriptors, not those of the netdevs: {found}"
    return Check.of("sent-files", not problems, expected, found or "no problem", message)


def _occurrences(name: str, state: bytes) -> int:
    """How often a whole name is in a CPR state."""
    return len(re.findall(rb"(?<![\w.-])%s(?![\w.-])" % re.escape(name.encode()), state))
