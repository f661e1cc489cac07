"""What this host can and cannot do, in the manner of virt-host-validate, and what follows: native or lab."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["native", "lab"]


class Level(enum.StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One check.

    :param area: what it matters for: ``"native"``, ``"lab"``, or ``"both"``.
    :param name: what was looked at.
    :param level: ``fail`` means that the area cannot be used.
    :param seen: what was found.
    :param advice: what to do about it; empty when there is nothing to do.
    """

    area: Literal["native", "lab", "both"]
    name: str
    level: Level
    seen: str
    advice: str = ""


def examine(qemu: Path | None = None, guest_kernel: Path | None = None) -> list[Diagnosis]:
    """Look at everything; takes a few seconds at most.

    :param qemu: a QEMU to try KVM with; the API of KVM is asked in any case.
    :param guest_kernel: an ordinary kernel (bzImage) to boot in it.
    """
    from cprlib.lab import checks_lab, checks_native  # noqa: PLC0415 - they use this module

    return [
        *checks_native.all_checks(qemu, guest_kernel),
        *checks_lab.all_checks(),
    ]


def failures(findings: Iterable[Diagnosis], mode: Mode) -> list[Diagnosis]:
    """The findings that forbid a mode."""
    return [one for one in findings if one.area in (mode, "both") and one.level is Level.FAIL]


def choose(findings: Sequence[Diagnosis]) -> Mode:
    """Native where nothing forbids it, else the lab."""
    return "lab" if failures(findings, "native") else "native"


def usable(findings: Sequence[Diagnosis]) -> bool:
    """Whether the chosen mode can be used at all."""
    return not failures(findings, choose(findings))


def explain(findings: Sequence[Diagnosis]) -> str:
    """One line: which mode and why."""
    mode = choose(findings)
    if mode == "native":
        return "Tests run natively: this host has all that they need."
    missing = ", ".join(one.name for one in failures(findings, "native"))
    text = f"Tests run in a lab: for running natively this host fails in {missing}."
    blocked = failures(findings, "lab")
    if blocked:
        text += f" But a lab cannot be used either: {', '.join(one.name for one in blocked)}."
    return text


def render_text(findings: Sequence[Diagnosis], colour: bool = False) -> str:
    """The findings as lines, with advice below those that are not passed, and the choice at the end."""
    tints = {Level.PASS: "32", Level.WARN: "33", Level.FAIL: "31"}
    titles = {"native": "Running natively", "lab": "Running in a lab", "both": "Either way"}
    width = max((len(one.name) for one in findings), default=0)
    lines: list[str] = []
    for area, title in titles.items():
        chosen = [one for one in findings if one.area == area]
        if chosen:
            lines.append(f"{title}:")
        for one in chosen:
            word = one.level.upper()
            label = f"\033[{tints[one.level]}m{word}\033[0m" if colour else word
            lines.append(f"  {one.name:<{width}} : {label} ({one.seen})")
            if one.advice and one.level is not Level.PASS:
                lines.append(f"  {'':<{width}}   {one.advice}")
    return "\n".join([*lines, "", explain(findings)]) + "\n"


def as_json(findings: Sequence[Diagnosis]) -> dict[str, Any]:
    """The findings for a program: ``mode``, ``usable``, ``explanation``, ``findings``."""
    return {
        "mode": choose(findings),
        "usable": usable(findings),
        "explanation": explain(findings),
        "findings": [asdict(one) for one in findings],
    }
