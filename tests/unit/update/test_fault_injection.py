"""A fault's hook: what it records of a command that the source has to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import QemuFailed, QmpRefused
from cprlib.update.fault_injection import FaultInjection
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor
from cprlib.update.live_update import LiveUpdate

pytestmark = pytest.mark.fast

REFUSAL = QmpRefused("migrate", "There's a migration process in progress", error_class="GenericError")


@dataclass
class UpdateInPhase:
    """An update that stands in the fault's phase; ``migrate`` is answered with ``answer``."""

    answer: QemuFailed | None
    migrate_reply: None = None

    def __post_init__(self) -> None:
        self.source = self.target = SimpleNamespace()

    def migrate(self) -> QemuFailed | None:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "refused"),
    [(REFUSAL, REFUSAL.happened), (None, ""), (QemuFailed("migrate", "it closed the connection"), "")],
    ids=["refused", "accepted", "died"],
)
def test_a_second_migrate_has_to_be_refused(answer: QemuFailed | None, refused: str) -> None:
    phase = Phase.TARGET_STARTED
    injection = FaultInjection(Fault("again", phase, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET))
    injection.at_phase(phase, cast("LiveUpdate", UpdateInPhase(answer)))
    assert injection.refused == refused
    assert injection.not_reached == ""  # the phase was reached, whatever the source answers
