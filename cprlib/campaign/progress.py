"""Lines of progress of a session, with the time passed and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from cprlib.build.progress import seconds_text
from cprlib.report.formatting import one_line


class ProgressLines:
    """Lines of progress with the time passed.

    :param say: takes a line.
    :param clock: seconds, for tests.
    """

    LONGEST = 240  # characters of a line

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._begun = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the session was begun or resumed."""
        return self._clock() - self._begun

    def line(self, text: str, left: float | None = None) -> None:
        """Say a line.

        :param text: foreign text in it is made safe.
        :param left: seconds that the rest will take, None when that is not known.
        """
        rest = f", about {seconds_text(left)} left" if left is not None else ""
        self._say(f"[{seconds_text(self.elapsed)}{rest}] {one_line(text, self.LONGEST)}")
