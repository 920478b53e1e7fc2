"""Replicas whose samples are summed by a real Redis: kept, killed, restarted empty, hung, and with rubbish in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.engine.samples import SampleRun
from service.errors import BadInput
from service.exits.policies.full_depth import FullDepth
from service.levels import redis_samples as redis_samples_module
from service.levels.keeper import PromiseKeeper
from service.levels.redis_samples import LONGEST_ENTRY_BYTES, RedisSamples
from service.policy import redis_store as redis_store_module
from service.policy.store import PolicyStoreDown
from tests.levels.pool_ import Replica
from tests.levels.promised_ import FASTEST, LEVELS, PROMISING, agreeing, wrong_if_fastest
from tests.policy.live_ import change
from tests.policy.redis_ import MODEL, RedisServer, Replicas, needs_redis

pytestmark = needs_redis
KEY = f"ner:samples:{{{MODEL}}}"
START = (0, 0)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def samples(redis_server: RedisServer) -> Iterator[RedisSamples]:
    """In a Redis that is empty."""
    redis_server.client.flushall()
    samples = RedisSamples(redis_server.url, MODEL)
    yield samples
    samples.close()


class Served(Replica):
    """A replica as a server has it: with a policy from Redis, and a keeper that serves what is certified."""

    def __init__(self, replicas: Replicas, name: str, url: str) -> None:
        self.stream = RedisSamples(url, MODEL)
        super().__init__(replicas.start(name, calibration=PROMISING), self.stream)
        self.keeper = PromiseKeeper(self.live, self.pooled, self.clock)

    def keep(self, run: Callable[[], SampleRun] = agreeing, count: int = 0) -> bool:
        """Take samples, and look; -> whether full depth is served then, and not FASTEST."""
        self.live.follow()
        self.add(run, count)
        self.clock.now += 61.0
        self.keeper.look()
        assert self.live.current.policy in (FullDepth(), *LEVELS)
        return self.live.current.policy == FullDepth()


def test_replicas_prove_a_promise_and_lose_it_together_and_redis_may_come_and_go(
    redis_server: RedisServer, samples: RedisSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store_module, "TIMEOUT_S", 60.0)  # on a busy machine, half a second may be too short
    replicas = Replicas(tmp_path, redis_server.url)
    fleet = [Served(replicas, name, redis_server.url) for name in ("one", "other")]
    one, other = fleet
    change(one.live, max_disagreement=0.1)
    assert all([replica.keep() for replica in fleet])
    for _ in range(4):  # 54 samples are needed
        assert all([replica.keep(agreeing, 6) for replica in fleet])
    for _ in range(2):
        for replica in fleet:
            replica.keep(agreeing, 4)
    assert not any([replica.keep() for replica in fleet])
    assert one.levels.standing() == other.levels.standing() and one.levels.measured() == other.levels.measured()
    assert one.live.current.policy == other.live.current.policy == FASTEST

    redis_server.kill()
    assert not any([replica.keep(agreeing, 5) for replica in fleet])
    assert [replica.measured for replica in fleet] == [64 + 5, 64 + 5] and one.pooled.fault is not None
    redis_server.start()  # empty
    for _ in range(2):
        assert not any([replica.keep() for replica in fleet])
    assert not any([replica.keep(agreeing, 5) for replica in fleet])
    assert not one.keep()
    assert [replica.measured for replica in fleet] == [64 + 5 + 10] * 2

    newcomer = Served(replicas, "newcomer", redis_server.url)
    assert newcomer.keep() and newcomer.measured == 10
    for _ in range(10):
        one.keep(wrong_if_fastest, 10)
        other.keep()
        if one.alarms:
            break
    assert one.alarms and other.alarms and one.keep() and other.keep()
    for replica in (*fleet, newcomer):
        replica.stream.close()
    replicas.close()


def test_entries_are_read_in_the_order_in_which_any_replica_has_sent_them(
    redis_server: RedisServer, samples: RedisSamples
) -> None:
    first = samples.exchange(["a", "b"], START, 10)
    assert [text for _, text in first.entries] == [b"a", b"b"] and [place for place, _ in first.entries] == first.added
    other = RedisSamples(redis_server.url, MODEL)
    assert [text for _, text in other.exchange(["c"], START, 2).entries] == [b"a", b"b"]
    assert [text for _, text in samples.exchange([], first.added[-1], 10).entries] == [b"c"]
    assert RedisSamples(redis_server.url, "other@1").exchange([], START, 10).entries == []
    other.close()


def test_as_many_entries_are_kept_as_are_said_and_long_ones_are_cut(
    redis_server: RedisServer, samples: RedisSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_samples_module, "ENTRIES_KEPT", 100)
    samples.exchange(["x"] * 1_000, START, 1)
    assert redis_server.client.xlen(KEY) < 400  # whole blocks are given up
    redis_server.client.xadd(KEY, {"other": "y" * 100_000, "sample": "z"})
    *_, (_, last) = samples.exchange([], START, 1_000).entries
    assert last == b"y" * LONGEST_ENTRY_BYTES


def test_what_cannot_be_used_is_told_without_secrets_and_without_waiting_for_long(
    redis_server: RedisServer, samples: RedisSamples
) -> None:
    redis_server.client.set(KEY, "no stream")
    with pytest.raises(PolicyStoreDown, match="WRONGTYPE"):
        samples.exchange(["a"], START, 1)
    with redis_server.stopped(), pytest.raises(PolicyStoreDown, match=r"ner:samples:\{tiny@1\} in redis://127"):
        samples.exchange(["a"], START, 1)
    with pytest.raises(PolicyStoreDown) as refused:
        RedisSamples("redis://:s3cret@127.0.0.1:1/0", MODEL).exchange([], START, 1)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(BadInput, match="expected redis://HOST:PORT/DATABASE"):
        RedisSamples("etcd://host", MODEL)
