"""docs/mutants.md: a table of the mutants of each group."""

from __future__ import annotations

from collections.abc import Sequence

from cprlib.build.mutants import Mutant
from cprlib.report.formatting import code_cell, markdown_row

PAGE_HEAD = """\
# Mutants

A mutant is a build of QEMU with a known defect: the series without one of its patches, or with one
more patch that breaks something. `cprlib prove` runs the suite on every mutant and shows which case
kills it ([cprlib prove](prove.md)). To write one, see [Adding a mutant](adding-a-mutant.md).

A case kills a mutant when it fails with a finding (`property: text`) that the regular expression
in the last column matches. Each mutant is explained in its file,
`images/qemu/mutants/GROUP/NAME.patch`.

This page is generated: `cprlib build --list --markdown > docs/mutants.md`.
"""
TABLE_HEAD = "| mutant | subject | killed by | message |\n| --- | --- | --- | --- |\n"
GROUPS = {
    "series": "The series without one of its patches",
    "tap": "Tap: queues, descriptors, scripts",
    "vhost": "vhost",
    "nic-state": "State of the NIC",
    "devices": "State of other devices",
    "channel": "Migration and the CPR channel",
    "failure": "Failed updates",
    "traffic": "Packets",
}


def mutants_page(mutants: Sequence[Mutant]) -> str:
    """The text of docs/mutants.md."""
    groups = [*GROUPS, *sorted({mutant.group for mutant in mutants} - set(GROUPS))]
    text = PAGE_HEAD
    for group in groups:
        members = [mutant for mutant in mutants if mutant.group == group]
        if members:
            text += f"\n## {GROUPS.get(group, group)}\n\n{TABLE_HEAD}"
            text += "".join(_row(mutant) for mutant in members)
    return text


def _row(mutant: Mutant) -> str:
    subject, killers = mutant.subject.replace("|", "\\|"), ", ".join(map(code_cell, mutant.killed_by))
    return f"{markdown_row(code_cell(mutant.name), subject, killers, code_cell(mutant.message))}\n"
