"""Deadlines: one object passed down, scaled by one factor for slow machines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from cprlib.errors import Awaited, DeadlineExceeded, UsageError

if TYPE_CHECKING:  # every command imports this module
    from concurrent.futures import Future

SCALE_VARIABLE = "CPRLIB_TIMEOUT_SCALE"
AFTER_STOP_S = 1.0  # for what was waited for while this process was stopped (SIGSTOP)

Value = TypeVar("Value")


def timeout_scale(environment: Mapping[str, str] = os.environ) -> float:
    """The factor of all deadlines, from the environment variable CPRLIB_TIMEOUT_SCALE.

    :param environment: of the process whose deadlines these are.
    :raises UsageError: the variable is not a positive number.
    """
    text = environment.get(SCALE_VARIABLE, "1")
    try:
        scale = float(text)
    except ValueError:
        scale = -1.0
    if not 0 < scale < 1000:
        raise UsageError(f"scale deadlines by {SCALE_VARIABLE}={text!r}", "not a number between 0 and 1000", "e.g. 2")
    return scale


class Deadline:
    """A time on the monotonic clock by which something must have happened.

    :param seconds: time allowed on an ordinary machine; multiplied by :func:`timeout_scale`.
    :param purpose: what is waited for, as it reads in the error: ``"the guest's network to come up"``.
    :param awaited: what is at fault when it does not happen.
    """

    def __init__(self, seconds: float, purpose: str, awaited: Awaited = Awaited.HARNESS) -> None:
        self.seconds = seconds * timeout_scale()
        self.purpose = purpose
        self.awaited = awaited
        self._end = time.monotonic() + self.seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """True when no time is left."""
        return self.remaining == 0.0

    def prolong(self) -> bool:
        """Add a second when the time was up more than a second ago: this process did not run.

        :returns: whether there is time left now.
        """
        if time.monotonic() - self._end > AFTER_STOP_S:
            self._end = time.monotonic() + AFTER_STOP_S
        return not self.expired

    def result_of(self, pending: Future[Value]) -> Value:
        """Wait for the result of a future.

        :raises TimeoutError: there was none in time.
        """
        while True:
            try:
                return pending.result(timeout=self.remaining)
            except TimeoutError:
                if not self.prolong():
                    raise

    def exceeded(self, happened: str = "", advice: str = "", details: str = "") -> DeadlineExceeded:
        """The error to raise when the deadline has passed; the caller adds what happened instead."""
        message = f"nothing after {self.seconds:.1f} s" + (f" ({happened})" if happened else "")
        hint = advice or f"on a slow machine set {SCALE_VARIABLE} to 2 or more"
        return DeadlineExceeded(f"wait for {self.purpose}", message, hint, details=details, awaited=self.awaited)

    def poll(
        self, probe: Callable[[], Value | None], interval: float = 0.01, instead: Callable[[], str] = str
    ) -> Value:
        """Call ``probe`` until it returns a true value, and return that; for states that no event announces.

        :param interval: pause between two calls, in seconds.
        :param instead: called for the error: what is the case instead.
        :raises DeadlineExceeded: the time is up and the probe still returns a false value.
        """
        while True:
            value = probe()
            if value:
                return value
            if self.expired:
                raise self.exceeded(instead())
            time.sleep(min(interval, self.remaining))


def wait_while_rising(
    probe: Callable[[], tuple[int, int]], *, quiet_s: float, latest_s: float, interval: float
) -> bool:
    """Wait until a count reaches another one, as long as it rises.

    :param probe: returns the count, and what it has to reach.
    :param quiet_s: the wait ends when the count has not risen for this time; scaled as deadlines are.
    :param latest_s: the first time that the count rises after this one ends the wait; scaled too.
    :param interval: pause between two calls, in seconds.
    :returns: whether it ended so: the count might have risen further.
    """
    purpose = "a count to rise"
    (count, complete), whole, quiet = probe(), Deadline(latest_s, purpose), Deadline(quiet_s, purpose)
    while count < complete and not quiet.expired:
        time.sleep(interval)  # no event announces the last one
        earlier = count
        count, complete = probe()
        if count > earlier:
            if whole.expired:
                return count < complete
            quiet = Deadline(quiet_s, purpose)
    return False
