"""Pause a live update when the target has its descriptors and devices, and has not loaded their state.

The target learns the name of its main channel last (``-incoming defer``). Until then the source waits with its guest
stopped, and both QEMUs serve QMP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.hooks import UpdateHook
from cprlib.update.live_update import LiveUpdate

TARGET_READY = "TARGET_READY"


class PauseWhenTargetReady(UpdateHook):
    """Pause when both QEMUs have the descriptors and neither runs the guest.

    :param action: called with the source and the target.
    """

    def __init__(self, action: Callable[[Machine, Machine], None]) -> None:
        self._action = action

    def before_target(self, update: LiveUpdate) -> None:
        """Defer the main channel."""
        update.channels = replace(update.channels, deferred=True)

    def source_stopped(self, update: LiveUpdate) -> None:
        """Wait for the target, act, and name the main channel."""
        update.target.wait_ready()
        update.mark(TARGET_READY)
        self._action(update.source, update.target)
        update.name_main_channel()


def update_with_pause_when_ready(case: MeasuredCase, action: Callable[[Machine, Machine], None]) -> None:
    """Live-update a case's guest with this pause, and add the result to the case's evidence."""
    netdev = case.guest.machine.settings.netdevs[0]
    case.add_update(case.guest.live_update(hooks=[PauseWhenTargetReady(action)]), netdev)
