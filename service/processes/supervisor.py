"""The first process: it starts the others, replaces one that dies, passes signals on, and ends last. It serves nothing.

It stays on one thread and computes nothing, so that a process can be forked from it at any time: the model is loaded
once, before the first fork, and its pages are shared by all.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

from service.errors import EngineFailed, ServiceError

log = logging.getLogger("service")

LOOK_S = 0.05
MAX_DEATHS, WITHIN_S = 5, 60.0  # of serving processes; then something is wrong with all of them
REFUSED = 2  # exit code of a process that could not start for a reason that it has told


class Supervisor:
    """Runs one process for each of `serve`, which return when they have drained, and one for `gather`."""

    def __init__(
        self,
        serve: Sequence[Callable[[], None]],
        gather: Callable[[], None],
        *,
        look: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        """look: called again and again; end: called at the first signal, before it is passed on."""
        self._serve = serve
        self._gather = gather
        self._look_around = look
        self._at_end = end
        self._pids: dict[int, int] = {}  # of serving processes: which of `serve` they run
        self._gatherer = 0
        self._signals = 0  # that asked for the end
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    def run(self) -> None:
        """Run all until SIGTERM or SIGINT. Raises EngineFailed if serving processes die again and again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._gatherer = fork(self._gather)
        for index in range(len(self._serve)):
            self._start(index)
        try:
            while self._pids:
                self._look_around()
                self._look()
                time.sleep(LOOK_S)
        finally:
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
            os.kill(self._gatherer, signal.SIGTERM)
            os.waitpid(self._gatherer, 0)
        log.info("ended")

    def _start(self, index: int) -> None:
        self._pids[fork(self._serve[index])] = index

    def _look(self) -> None:
        """Replace every process that has ended, unless it was asked to."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == self._gatherer:
                self._gatherer = fork(self._gather)
                continue
            index = self._pids.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._signals:
                if not self._pids:
                    return
                continue
            log.error("process replaced", extra={"data": {"pid": pid, "exit_code": code}})
            self._deaths.append(time.monotonic())
            if code == REFUSED or (len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < WITHIN_S):
                raise EngineFailed("serving processes ended again and again, or could not start; the log says why")
            self._start(index)

    def _end(self, number: int, _: FrameType | None) -> None:
        """Have the serving processes drain; at a second signal, end at once, as they do themselves."""
        if not self._signals:
            self._at_end()
        self._signals += 1
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own, and return the process's id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which passes it on
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
        code = 0
    except ServiceError as error:
        log.error("%s", error)
        code = REFUSED
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        log.exception("a process failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
