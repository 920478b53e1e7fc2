"""Replicas whose samples are summed by a stream in memory, which a test may take away. No test lives here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from service.engine.samples import SampleRun
from service.levels.on_traffic import Standing, TrafficLevels
from service.levels.pooled import Exchanged, Place, PooledSamples, SampleStream
from service.policy.live import LivePolicy
from service.policy.store import PolicyStoreDown
from tests.engine.scripted_ import Clock
from tests.levels.promised_ import LEVELS, NOON, NUM_LAYERS, PROMISING
from tests.policy.live_ import change, start

WISH = {"max_disagreement": 0.1}


class FakeStream:
    """As Redis keeps one, with a clock that stands still."""

    name = "the stream"

    def __init__(self) -> None:
        self.entries: list[tuple[Place, bytes]] = []
        self.milliseconds = round(NOON.timestamp() * 1000)
        self.is_away = self.loses_answers = False
        self.tries = 0

    def append(self, text: str | bytes) -> Place:
        """Return the place that an entry gets."""
        last = self.entries[-1][0] if self.entries else (0, 0)
        place = max((self.milliseconds, 0), (last[0], last[1] + 1))
        self.entries.append((place, text if isinstance(text, bytes) else text.encode()))
        return place

    def exchange(self, texts: Sequence[str], after: Place, most: int) -> Exchanged:
        """See SampleStream."""
        self.tries += 1
        if self.is_away:
            raise PolicyStoreDown("the stream is away")
        added = [self.append(text) for text in texts]
        if self.loses_answers:
            raise PolicyStoreDown("the answer is late")
        return Exchanged(added, [entry for entry in self.entries if entry[0] > after][:most])

    def close(self) -> None:
        """Nothing is held."""


class Replica:
    """The levels of one replica, what sums its samples with those of others, and what was told."""

    def __init__(self, live: LivePolicy, stream: SampleStream, *, of: str = "some weights") -> None:
        self.live = live
        self.alarms: list[str] = []
        self.skipped: list[str] = []
        self.clock = Clock()
        self.levels = TrafficLevels(
            LEVELS, LEVELS, NUM_LAYERS, now=lambda: NOON, on_alarm=lambda: self.alarms.append("alarm")
        )
        self.pooled = PooledSamples(
            self.levels,
            live,
            stream,
            of=of,
            num_layers=NUM_LAYERS,
            clock=self.clock,
            on_skipped=self.skipped.append,
        )

    def add(self, run: Callable[[], SampleRun], count: int = 1) -> None:
        """Samples of this replica."""
        for _ in range(count):
            self.pooled.add(run())

    def look(self) -> Standing | None:
        """As the keeper does; time passes, so that a stream that was away is tried again."""
        self.clock.now += 1.0
        return self.pooled.test(self.live.current.to_certify)

    @property
    def measured(self) -> int:
        """By how many samples levels are measured."""
        return self.levels.measured()[LEVELS[0]].estimate.samples


class Fleet:
    """Replicas under one policy, which promises WISH; and the stream that they share."""

    def __init__(self, folder: Path, replicas: int = 2, *, promises: bool = True) -> None:
        self.live = start(folder, calibration=PROMISING)
        self.stream = FakeStream()
        self.replicas = [self.newcomer() for _ in range(replicas)]
        if promises:
            self.promise()
        self.look()

    def newcomer(self) -> Replica:
        """A replica that starts."""
        return Replica(self.live, self.stream)

    def promise(self) -> None:
        """Ask for it."""
        change(self.live, **WISH)

    def look(self) -> list[Standing | None]:
        """Let all look until each has sent what it has, and has read what all have sent; -> how far each is."""
        for _ in range(3):
            found = [replica.look() for replica in self.replicas]
        return found

    def add(self, run: Callable[[], SampleRun], count: int = 1) -> list[Standing | None]:
        """So many samples of each replica; -> how far each is then."""
        for replica in self.replicas:
            replica.add(run, count)
        return self.look()
