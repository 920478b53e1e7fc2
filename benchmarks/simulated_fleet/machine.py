"""A machine: threads that share its cores, and those of one process its interpreter. It knows nothing of requests.

Cores are shared evenly, as by a fair scheduler with short slices: where threads want more cores than there are, all of
them are slower by the same factor. An interpreter is one thread's at a time: until it has done its Python, or until the
service's own switch interval has passed since somebody waits for it.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Literal

from service.api.server import SWITCH_INTERVAL_S

Kind = Literal["sleep", "python", "kernel", "client"]
"""Sleep takes no core. Python takes the interpreter and a core, kernels take cores alone. The client goes first."""

Done = Callable[[float], None]


class Thread:
    """A thread, and what it does now; `interpreter` names the process whose interpreter it needs for Python.

    spent_s  seconds of a core that its Python has taken so far
    """

    __slots__ = ("cores", "done", "interpreter", "kind", "left_s", "rate", "spent_s")

    def __init__(self, interpreter: int) -> None:
        self.interpreter = interpreter
        self.kind: Kind = "sleep"
        self.left_s = self.rate = self.spent_s = 0.0
        self.cores = 0
        self.done: Done = _nothing


class _Interpreter:
    """The threads of a process that want its interpreter; the first has it, until `due` if others wait."""

    __slots__ = ("due", "threads")

    def __init__(self) -> None:
        self.threads: deque[Thread] = deque()
        self.due = math.inf

    def want(self, thread: Thread, now: float) -> None:
        """Have a thread want it from now on."""
        self.threads.append(thread)
        if len(self.threads) == 2:
            self.due = now + SWITCH_INTERVAL_S

    def pass_on(self, now: float, is_done: bool) -> None:
        """Let the next one have it; the one that had it is done with it, or wants it again."""
        self.threads.rotate(-1)
        if is_done:
            self.threads.pop()
        self.due = now + SWITCH_INTERVAL_S if len(self.threads) > 1 else math.inf


class Machine:
    """So many cores; times are seconds of the simulated clock, and never go back."""

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._busy: list[Thread] = []
        self._at = 0.0
        self._is_changed = False
        self._next: Thread | _Interpreter | None = None
        self._interpreters: defaultdict[int, _Interpreter] = defaultdict(_Interpreter)
        self.due = math.inf
        """When the next thread is done; right after `share`."""

    def start(self, thread: Thread, kind: Kind, seconds: float, done: Done, cores: int = 1) -> None:
        """Have a thread that does nothing do something from now on; `done` is called with the time of its end."""
        thread.kind, thread.left_s, thread.done, thread.cores = kind, seconds, done, cores
        self._busy.append(thread)
        if kind == "python":
            self._interpreters[thread.interpreter].want(thread, self._at)
        self._is_changed = True

    def run_to(self, now: float) -> None:
        """Let all threads work until `now`, which is not after `due`; whoever is done by then is told."""
        passed, self._at = now - self._at, now
        for thread in self._busy:
            worked = passed * thread.rate
            thread.left_s -= worked
            if thread.kind == "python":
                thread.spent_s += worked
        if now >= self.due and self._next is not None:
            happened, self._next = self._next, None
            self._is_changed = True
            if isinstance(happened, _Interpreter):
                happened.pass_on(now, is_done=False)
                return
            self._busy.remove(happened)
            if happened.kind == "python":
                self._interpreters[happened.interpreter].pass_on(now, is_done=True)
            happened.done(now)

    def stop(self) -> None:
        """End everything at once: nobody is told."""
        self._busy.clear()
        self._interpreters.clear()
        self._is_changed = True

    def share(self) -> bool:
        """Share the cores anew if anything has changed; return whether it had."""
        if not self._is_changed:
            return False
        self._is_changed = False
        wanted, free = 0.0, self._cores
        for thread in self._busy:
            if thread.kind == "python":
                thread.rate = 1.0 if self._interpreters[thread.interpreter].threads[0] is thread else 0.0
                wanted += thread.rate
            elif thread.kind == "kernel":
                thread.rate = 1.0
                wanted += thread.cores
            else:
                thread.rate = 1.0
                free -= thread.kind == "client"
        slower = min(1.0, max(free, 0.05) / wanted) if wanted else 1.0
        self.due, self._next = math.inf, None
        for thread in self._busy:
            if thread.kind == "python" or thread.kind == "kernel":
                thread.rate *= slower
            due = self._at + max(thread.left_s, 0.0) / thread.rate if thread.rate else math.inf
            if due < self.due:
                self.due, self._next = due, thread
        for interpreter in self._interpreters.values():
            if interpreter.due < self.due:
                self.due, self._next = interpreter.due, interpreter
        return True


def _nothing(now: float) -> None:
    """Do nothing: what a thread has to do when it has done nothing yet."""
