"""Replicas on one real Redis: a change at any is in force in all, whatever becomes of Redis versions never go back."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import BadInput, PolicyConflict
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.policy import follower as follower_module
from service.policy.captured import CapturedPolicy
from service.policy.follower import PolicyFollower
from service.policy.live import LivePolicy
from service.policy.redis_store import LONGEST_ENTRY_BYTES, TIMEOUT_S, RedisStore
from service.policy.store import PolicyStoreDown, StateFolder, StoreMovedOn
from service.policy.versions import HIGHEST_VERSION, HistoryEntry, PolicyRecord
from tests.api.servers_ import wait_until
from tests.autopilot.cockpit_ import WISH, Cockpit
from tests.exits.calibrations_ import ACCURATE, BALANCED, CALIBRATION, FAST
from tests.levels.promised_ import FASTEST, LEVELS, MIDDLE, PROMISING, SAFE
from tests.levels.watch_ import Watch
from tests.policy.live_ import change
from tests.policy.redis_ import KEY, Detour, RedisServer, Replicas, free_port, needs_redis

pytestmark = needs_redis


def version_of(live: LivePolicy) -> int:
    return live.current.version


def refusal(live: LivePolicy) -> str:
    """Why a change is refused that the store is away for; nothing has changed by it."""
    before = live.current, live.history()
    with pytest.raises(PolicyStoreDown) as refused:
        change(live, strategy="full_depth")
    assert (live.current, live.history()) == before
    return str(refused.value)


def kept(server: RedisServer, key: str = KEY) -> list[int]:
    """The versions that lie in Redis."""
    return [json.loads(entry)["version"] for entry in server.client.lrange(key, 0, -1)]


def set_aside(server: RedisServer) -> list[bytes]:
    """The keys of what was set aside."""
    return sorted(server.client.keys("*unusable*"))


# one policy


def test_a_change_at_one_replica_is_in_force_in_the_other_with_its_history(replicas: Replicas) -> None:
    heard: list[int] = []
    one = replicas.start("one")
    other = replicas.start("other", on_change=lambda version: heard.append(version.version))
    assert (other.current, other.history()) == (one.current, one.history())
    one.change({"strategy": "budgeted", "layer": 2}, source="api", changed_by="ada")
    other.follow()
    assert (other.current, other.history()) == (one.current, one.history())
    assert (other.current.policy, other.history()[0].changed_by, heard) == (Budgeted(2), "ada", [1, 2])


def test_what_is_captured_before_a_change_elsewhere_is_renewed_after_it(replicas: Replicas) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    captured = other.capture()
    change(one, strategy="full_depth")
    assert other.renew(captured) is captured
    other.follow()
    assert other.renew(captured) == CapturedPolicy(FullDepth(), 2)


def test_if_match_works_across_replicas_that_have_not_heard_of_each_other_yet(replicas: Replicas) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    change(one, strategy="budgeted", layer=2)
    with pytest.raises(PolicyConflict, match="version 2 is in force"):
        other.change({"layer": 1}, source="api", if_versions=(1,))
    change(one, layer=3)
    assert other.change({"layer": 1}, source="api", if_versions=(3,)).version == 4


def test_a_change_of_parameters_is_of_the_policy_that_was_in_force_last_anywhere(replicas: Replicas) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    change(one, tau=-0.5)
    assert change(other, patience=3).in_force.policy == Vee(tau=-0.5, patience=3)
    assert change(one, rollback_to=2).in_force.policy == Vee(tau=-0.5)


def test_of_changes_at_the_same_time_each_is_a_version_of_its_own_and_none_is_lost(replicas: Replicas) -> None:
    lives = [replicas.start(name) for name in "abcd"]

    def make(live: LivePolicy) -> list[int]:
        return [change(live, patience=patience).version for patience in range(1, 26)]

    with ThreadPoolExecutor(len(lives)) as pool:
        versions = [version for made in pool.map(make, lives) for version in made]
    assert sorted(versions) == list(range(2, 102))
    for live in lives:
        live.follow()
        assert [entry.version for entry in live.history()] == list(range(101, 0, -1))


def test_a_change_that_others_forestall_for_too_long_is_refused(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.policy.live.LONGEST_TRY_S", 0.01)
    live, store = replicas.start(), replicas.stores[-1]

    def too_late(_: object) -> None:
        raise StoreMovedOn("somebody else has changed it")

    monkeypatch.setattr(store, "save", too_late)
    assert "others were faster for 0.01 s" in refusal(live)


def test_every_model_has_a_policy_and_a_history_of_its_own(replicas: Replicas) -> None:
    change(replicas.start(), strategy="full_depth")
    assert version_of(replicas.start(model="other@1")) == 1
    assert replicas.start().current.policy == FullDepth()


def test_replicas_that_start_at_the_same_time_agree_on_one_start(replicas: Replicas) -> None:
    with ThreadPoolExecutor(8) as pool:
        lives = list(pool.map(replicas.start, "abcdefgh"))
    for live in lives:
        live.follow()
    assert len({live.history()[0].at for live in lives}) == 1 and {version_of(live) for live in lives} == {1}


# pushed and polled


@pytest.fixture
def followed(replicas: Replicas) -> Iterator[tuple[LivePolicy, LivePolicy]]:
    """Two replicas; the second one follows in a thread of its own."""
    one, other = replicas.start("one"), replicas.start("other")
    follower = PolicyFollower(other, replicas.stores[-1])
    follower.start()
    yield one, other
    follower.close()


def test_a_push_brings_a_change_though_nobody_polls(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, replicas: Replicas
) -> None:
    monkeypatch.setattr(follower_module, "POLL_S", 60.0)
    one, other = replicas.start("one"), replicas.start("other")
    follower = PolicyFollower(other, replicas.stores[-1])
    follower.start()
    wait_until(lambda: redis_server.client.pubsub_numsub(KEY)[0][1] == 1)
    for _ in range(3):
        change(one, patience=version_of(one) + 1)
        wait_until(lambda: version_of(other) == version_of(one))
    monkeypatch.undo()
    change(one, strategy="full_depth")  # wakes it, so that it ends
    follower.close()


def test_a_push_that_gets_lost_is_made_up_for_within_a_second(
    redis_server: RedisServer, followed: tuple[LivePolicy, LivePolicy]
) -> None:
    one, other = followed
    wait_until(lambda: redis_server.client.pubsub_numsub(KEY)[0][1] == 1)
    change(one, tau=-0.5)
    wait_until(lambda: version_of(other) == 2)
    text = json.loads(redis_server.client.lindex(KEY, -1))
    redis_server.client.rpush(KEY, json.dumps({**text, "version": 3}))  # and nothing published
    wait_until(lambda: version_of(other) == 3)
    assert follower_module.POLL_S + TIMEOUT_S < 1


def test_a_follower_finds_back_to_a_redis_that_was_killed(
    redis_server: RedisServer, followed: tuple[LivePolicy, LivePolicy]
) -> None:
    one, other = followed
    change(one, tau=-0.5)
    wait_until(lambda: version_of(other) == 2)
    redis_server.kill()
    wait_until(lambda: "Connection refused" in str(other._store_fault))
    redis_server.start()
    wait_until(lambda: kept(redis_server) == [1, 2])  # filled by the follower
    change(one, tau=-0.6)
    wait_until(lambda: version_of(other) == 3)


def test_whatever_goes_wrong_while_following_is_logged_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, followed: tuple[LivePolicy, LivePolicy]
) -> None:
    one, other = followed

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(other, "follow", fail)
        wait_until(lambda: "could not be followed" in caplog.text)
    change(one, tau=-0.5)
    wait_until(lambda: version_of(other) == 2)


# gone


def test_while_redis_is_gone_the_policy_stays_and_changes_are_refused(
    redis_server: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bool] = []
    live = replicas.start(on_store=heard.append)
    change(live, strategy="budgeted", layer=2)
    redis_server.kill()
    for _ in range(3):
        message = refusal(live)
        assert redis_server.url in message and "Connection refused" in message and "nothing was changed" in message
        live.follow()
    assert live.capture() == CapturedPolicy(Budgeted(2), 2) and heard[-1] is False
    assert live.change({"strategy": "full_depth"}, source="api", dry_run=True).version == 3  # needs no store
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1  # said once
    redis_server.start()
    live.follow()
    assert heard[-1] is True and change(live, strategy="full_depth").version == 3


def test_a_redis_that_comes_back_empty_is_filled_and_versions_go_on(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    for layer in (1, 2, 3):
        change(one, strategy="budgeted", layer=layer)
    redis_server.kill()
    redis_server.start()
    other.follow()  # which knows less, and fills it with what it knows
    assert kept(redis_server) == [1] and version_of(other) == 1
    one.follow()
    assert kept(redis_server) == [1, 2, 3, 4] and set_aside(redis_server) == []
    other.follow()
    assert (other.current, other.history()) == (one.current, one.history())
    assert change(other, strategy="full_depth").version == 5


def test_a_change_at_an_emptied_redis_comes_after_all_that_its_replica_knows(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    live = replicas.start()
    change(live, tau=-0.5)
    redis_server.client.flushall()
    assert change(live, tau=-0.6).version == 3 and kept(redis_server) == [1, 2, 3]


def test_a_redis_that_comes_back_with_older_data_is_brought_up_to_date(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    change(one, tau=-0.5)
    redis_server.client.save()
    change(one, tau=-0.6)
    other.follow()
    redis_server.kill()
    redis_server.start()
    assert kept(redis_server) == [1, 2]
    other.follow()
    assert version_of(other) == 3 and kept(redis_server) == [1, 2, 3] and set_aside(redis_server) == []
    assert change(one, tau=-0.7).version == 4


def test_a_new_replica_on_an_emptied_redis_gives_way_to_those_who_know_more(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    old = replicas.start("old")
    change(old, tau=-0.5)
    redis_server.client.flushall()
    new = replicas.start("new")
    assert version_of(new) == 1
    old.follow()
    new.follow()
    assert (new.current, new.history()) == (old.current, old.history()) and version_of(new) == 2


# slow


def test_while_redis_hangs_a_change_is_refused_soon_and_is_not_made_afterwards(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    live = replicas.start()
    with redis_server.stopped():
        assert "Timeout" in refusal(live)
        started = time.monotonic()
        refusal(live)  # at once: it is known
        assert time.monotonic() - started < TIMEOUT_S
        assert live.capture() == CapturedPolicy(Vee(), 1)
    live.follow()
    assert kept(redis_server) == [1] and change(live, strategy="full_depth").version == 2


def test_a_change_that_redis_comes_to_after_its_caller_has_given_up_is_not_made(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    live, store = replicas.start(), replicas.stores[-1]
    store.newest()
    with redis_server.stopped(), pytest.raises(PolicyStoreDown, match="Timeout"):
        store.save((*reversed(live.history()), replace(live.history()[0], version=2)))
    assert redis_server.client.ping() and kept(redis_server) == [1]


def test_what_is_slow_between_reading_and_saving_is_refused(redis_server: RedisServer, replicas: Replicas) -> None:
    live, store = replicas.start(), replicas.stores[-1]
    store.newest()
    time.sleep(TIMEOUT_S)
    with pytest.raises(PolicyStoreDown, match="too slow"):
        store.save((*reversed(live.history()), replace(live.history()[0], version=2)))
    assert kept(redis_server) == [1]


def test_the_autopilot_and_reads_never_wait_for_a_redis_that_hangs(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    live = replicas.start(calibration=CALIBRATION)
    change(live, autopilot={"p95_ms": 100, "max_f1_loss": 4.0})
    with redis_server.stopped(), ThreadPoolExecutor(1) as pool:
        follows = pool.submit(live.follow)
        wait_until(live._changing.locked)
        live.change(FAST.to_json(), source="autopilot", if_versions=(2,))
        assert live.describe().in_force.policy == live.capture().policy == FAST
        assert not follows.done()


# split


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[RedisServer]:
    """A second Redis, with data of its own."""
    with RedisServer(tmp_path / "elsewhere") as server:
        yield server


@pytest.fixture
def detour(redis_server: RedisServer) -> Iterator[Detour]:
    """The way of one replica to Redis."""
    detour = Detour(redis_server.port)
    yield detour
    detour.close()


@pytest.mark.parametrize(("here", "there"), [(1, 3), (3, 1)])
def test_after_a_split_the_side_with_more_versions_holds_and_the_other_is_kept_aside(
    redis_server: RedisServer,
    elsewhere: RedisServer,
    detour: Detour,
    replicas: Replicas,
    caplog: pytest.LogCaptureFixture,
    here: int,
    there: int,
) -> None:
    one, other = replicas.start("one"), replicas.start("other", url=detour.url)
    detour.lead_to(elsewhere.port)
    for live, layer, changes in ((one, 1, here), (other, 2, there)):
        for _ in range(changes):
            live.follow()
            live.follow()  # the first may find its connection cut
            change(live, strategy="budgeted", layer=layer)
    assert (version_of(one), version_of(other)) == (1 + here, 1 + there)
    detour.lead_to(redis_server.port)
    for _ in range(3):
        for live in (other, one):
            before = version_of(live)
            live.follow()
            assert version_of(live) >= before
    assert (other.current.policy, other.history()) == (one.current.policy, one.history())
    assert version_of(one) == version_of(other) == 4 and one.current.policy == Budgeted(2 if there > here else 1)
    assert len(set_aside(redis_server)) == (1 if there > here else 0)
    given_up = [record.data["version"] for record in caplog.records if record.message == "version given up"]
    assert given_up == [2]


def test_two_versions_of_one_number_become_the_next_number_in_all(
    redis_server: RedisServer, elsewhere: RedisServer, detour: Detour, replicas: Replicas
) -> None:
    one, other = replicas.start("one"), replicas.start("other", url=detour.url)
    detour.lead_to(elsewhere.port)
    change(one, strategy="budgeted", layer=1)
    other.follow()
    other.follow()
    change(other, strategy="budgeted", layer=2)
    detour.lead_to(redis_server.port)
    for live in (other, other, one):
        live.follow()
    assert (other.current.policy, other.history()) == (one.current.policy, one.history())
    assert (version_of(one), one.current.policy) == (3, Budgeted(1))
    assert one.history()[0].changed_by == "there were two versions 2; this one is the store's"


def test_replicas_that_do_not_see_the_same_redis_serve_on_and_say_nothing_wrong(
    redis_server: RedisServer, detour: Detour, replicas: Replicas
) -> None:
    one, other = replicas.start("one"), replicas.start("other", url=detour.url)
    detour.close()
    change(one, tau=-0.5)
    refusal(other)
    assert (version_of(one), version_of(other)) == (2, 1)


# torn and hostile


def entry(**fields: object) -> bytes:
    """An entry of version 2 with other fields."""
    good = HistoryEntry(2, "noon", "api", None, None, PolicyRecord({"strategy": "full_depth"}))
    written = {
        "version": 2,
        "at": good.at,
        "by": "api",
        "changed_by": None,
        "before": None,
        "after": good.after.to_json(),
    }
    return json.dumps({**written, **fields}).encode()


HOSTILE = {
    "torn": entry()[:40],
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "not an object": b"[1, 2]",
    "null": b"null",
    "no version": b'{"strategy": "vee"}',
    "a version of no kind": entry(version="2"),
    "an infinite version": entry(version=2)[:-1] + b', "more": 1e999}',
    "a version that nobody could follow": entry(version=HIGHEST_VERSION + 1),
    "another field": entry(run="rm"),
    "by nobody": entry(by="root"),
    "a policy that is no object": entry(after="vee"),
    "half of a surrogate pair": entry(changed_by="\ud800"),
    "too long": entry(changed_by="x" * LONGEST_ENTRY_BYTES),
    "nested too deep": b"[" * 20_000,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_cannot_be_read_is_set_aside_named_and_replaced_by_what_is_in_force(
    redis_server: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    one, other = replicas.start("one"), replicas.start("other")
    change(one, tau=-0.5)
    other.follow()
    redis_server.client.rpush(KEY, content)
    for live in (one, other):
        live.follow()
        assert (live.current.policy, version_of(live)) == (Vee(tau=-0.5), 2)
    assert kept(redis_server) == [1, 2]
    (place,) = set_aside(redis_server)
    assert redis_server.client.lindex(place, -1) == content
    (told,) = [record.data for record in caplog.records if record.message == "state set aside"]
    assert KEY in told["reason"] and "unusable" in told["reason"] and place.decode() in told["file"]
    assert change(other, tau=-0.6).version == 3


def test_a_key_of_another_type_is_set_aside(redis_server: RedisServer, replicas: Replicas) -> None:
    live = replicas.start()
    redis_server.client.delete(KEY)
    redis_server.client.set(KEY, "hello")
    live.follow()
    assert kept(redis_server) == [1]
    assert [redis_server.client.get(key) for key in set_aside(redis_server)] == [b"hello"]


def test_a_start_on_what_cannot_be_read_is_a_start_from_the_default_that_says_why(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    redis_server.client.rpush(KEY, b"torn")
    live = replicas.start()
    assert (live.current.policy, version_of(live)) == (Vee(), 1)
    assert "was unusable" in live.history()[0].changed_by and len(set_aside(redis_server)) == 1


def test_nobody_sets_aside_what_another_has_already_put_right(redis_server: RedisServer, replicas: Replicas) -> None:
    replicas.start("one")
    late = replicas.store("late")
    redis_server.client.rpush(KEY, b"torn")
    with pytest.raises(Exception, match="unusable"):
        late.newest()
    redis_server.client.rpop(KEY)
    with pytest.raises(StoreMovedOn):
        late.set_aside()
    assert kept(redis_server) == [1]


def test_a_policy_that_only_others_can_use_is_left_to_them_and_changes_are_refused(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    heard: list[bool] = []
    live = replicas.start(on_store=heard.append)
    redis_server.client.rpush(KEY, entry(after={"strategy": "of_a_later_version"}))
    live.follow()
    assert version_of(live) == 1 and heard[-1] is False
    message = refusal(live)
    assert "version 2 in the store cannot be used here" in message and "of_a_later_version" in message
    assert kept(redis_server) == [1, 2] and set_aside(redis_server) == []
    with pytest.raises(PolicyStoreDown, match="of_a_later_version"):
        replicas.start("new")
    redis_server.client.rpush(KEY, entry(version=3))
    live.follow()
    assert (live.current.policy, version_of(live), heard[-1]) == (FullDepth(), 3, True)


def test_a_version_that_nobody_could_follow_is_not_made(redis_server: RedisServer, replicas: Replicas) -> None:
    live = replicas.start()
    redis_server.client.rpush(KEY, entry(version=HIGHEST_VERSION))
    live.follow()
    assert version_of(live) == HIGHEST_VERSION
    assert "too high for others to follow" in refusal(live)


# starts


def test_a_start_while_redis_is_away_takes_the_policy_that_was_known_last(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    heard: list[bool] = []
    before = replicas.start()
    change(before, tau=-0.5)
    redis_server.kill()
    after = replicas.start(on_store=heard.append)
    assert (after.current, after.history(), heard[-1]) == (before.current, before.history(), False)
    refusal(after)
    redis_server.start()
    after.follow()
    assert kept(redis_server) == [1, 2] and heard[-1] is True


def test_a_first_start_while_redis_is_away_fails_and_says_so(redis_server: RedisServer, replicas: Replicas) -> None:
    redis_server.kill()
    with pytest.raises(PolicyStoreDown, match=f"the policy store {redis_server.url} cannot be used"):
        replicas.start()


def test_a_copy_that_is_torn_is_no_copy_and_one_that_cannot_be_written_is_told(
    redis_server: RedisServer, replicas: Replicas, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = replicas.start()
    (copy,) = (tmp_path / "a").rglob("exit_policy.json")
    copy.write_bytes(b"torn")
    copy.with_suffix(".partial").mkdir()
    assert change(live, tau=-0.5).version == 2
    assert "no copy of the policy was kept" in caplog.text
    redis_server.kill()
    with pytest.raises(PolicyStoreDown):
        replicas.start()


def test_what_a_server_kept_while_it_was_alone_is_no_copy(
    redis_server: RedisServer, replicas: Replicas, tmp_path: Path
) -> None:
    alone = StateFolder.within(tmp_path / "a", "tiny@1")
    alone.save([HistoryEntry(9, "noon", "start", None, None, PolicyRecord({"strategy": "full_depth"}))])
    assert version_of(replicas.start()) == 1
    assert StateFolder.within(tmp_path / "a", "tiny@1").load()[0].version == 9


# keys, TLS, URLs


def test_a_password_in_the_url_is_used_and_never_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="s3cret/&") as server:
        url = server.url.replace("//", "//:s3cret%2F%26@")
        with closing(RedisStore(url, "tiny@1", StateFolder(tmp_path, "tiny@1"))) as store:
            assert store.load() == () and "s3cret" not in store.name
        for wrong in (server.url, server.url.replace("//", "//:wr0ng@")):
            with closing(RedisStore(wrong, "tiny@1", StateFolder(tmp_path, "tiny@1"))) as store:
                with pytest.raises(PolicyStoreDown, match=r"Authentication|username-password") as refused:
                    store.load()
                assert "wr0ng" not in str(refused.value)


def test_over_tls_the_server_must_be_the_one_that_it_says_it_is(tmp_path: Path) -> None:
    key, certificate, port = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem"), free_port()
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    tls = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key]
    tls += ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"]
    url, copy = f"rediss://localhost:{port}/0", StateFolder(tmp_path, "tiny@1")
    with RedisServer(tmp_path, *tls):
        with closing(RedisStore(f"{url}?ssl_ca_certs={certificate}", "tiny@1", copy)) as store:
            assert store.load() == () and store.name == url
        with closing(RedisStore(url, "tiny@1", copy)) as store, pytest.raises(PolicyStoreDown, match="VERIFY_FAILED"):
            store.load()


@pytest.mark.parametrize(
    "url",
    ["http://s3cret@x", "redis://", "s3cret", "redis://:s3cret/x@host", "redis://[s3cret", "redis://:s3cret@x?no=1"],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput, match="expected redis://HOST:PORT/DATABASE") as refused:
        RedisStore(url, "tiny@1", StateFolder(tmp_path, "tiny@1"))
    assert "NER_POLICY_STORE" in str(refused.value) and "s3cret" not in str(refused.value)


# the autopilot


@pytest.fixture
def fleet(replicas: Replicas) -> tuple[Cockpit, Cockpit]:
    """Two replicas, whose autopilots were switched on at the first one."""
    one, other = (replicas.start(name, calibration=CALIBRATION) for name in ("one", "other"))
    change(one, preset="accurate")
    change(one, autopilot=WISH)
    other.follow()
    cockpits = Cockpit(one), Cockpit(other)
    for cockpit in cockpits:
        assert cockpit.look(0.2) == 0 and version_of(cockpit.live) == 3
    return cockpits


def test_the_objective_is_of_all_replicas_and_the_level_is_of_each(
    redis_server: RedisServer, fleet: tuple[Cockpit, Cockpit]
) -> None:
    busy, idle = fleet
    assert busy.look(2, waiting_s=0.06) == 2 and idle.look(2) == 0
    for cockpit in fleet:
        cockpit.live.follow()
    assert (busy.live.current.policy, idle.live.current.policy) == (FAST, ACCURATE)
    assert busy.live.current.objective == idle.live.current.objective is not None
    assert version_of(busy.live) == version_of(idle.live) == 3 and kept(redis_server) == [1, 2, 3]
    state = busy.live.describe()
    assert (state.in_force.level, state.in_force.updated_by, state.highest_level) == (2, "autopilot", 2)


def test_a_move_is_told_from_the_one_before_within_a_version(fleet: tuple[Cockpit, Cockpit]) -> None:
    live = fleet[0].live
    captured, overridden = live.capture(), live.capture({"strategy": "budgeted", "layer": 2})
    live.observe(captured, 4)
    assert fleet[0].look(0.1, waiting_s=0.06) == 1
    live.observe(captured, 4)
    assert live.describe().observed.sequences == 0
    renewed = live.renew(captured)
    assert (renewed.policy, renewed.version) == (BALANCED, captured.version)
    assert live.renew(renewed) is renewed
    assert live.renew(overridden, {"strategy": "budgeted", "layer": 2}).local_moves == renewed.local_moves
    live.observe(renewed, 2)
    assert live.describe().observed.sequences == 1


def test_the_level_moves_while_redis_is_gone(redis_server: RedisServer, fleet: tuple[Cockpit, Cockpit]) -> None:
    redis_server.kill()
    fleet[0].live.follow()
    assert fleet[0].look(2, waiting_s=0.06) == 2
    refusal(fleet[0].live)


def test_a_change_by_hand_at_one_ends_the_flight_of_all(fleet: tuple[Cockpit, Cockpit]) -> None:
    assert fleet[1].look(2, waiting_s=0.06) == 2
    change(fleet[0].live, strategy="full_depth")
    fleet[1].live.follow()
    fleet[1].look(2, waiting_s=0.06)
    assert fleet[1].live.current.policy == FullDepth() and fleet[1].live.current.objective is None


def test_a_move_that_was_decided_before_a_change_elsewhere_is_not_made(fleet: tuple[Cockpit, Cockpit]) -> None:
    one, other = fleet[0].live, fleet[1].live
    change(one, strategy="full_depth")
    other.follow()
    with pytest.raises(PolicyConflict):
        other.change(FAST.to_json(), source="autopilot", if_versions=(3,))


def test_switching_it_off_leaves_all_where_the_replica_was_that_was_asked(fleet: tuple[Cockpit, Cockpit]) -> None:
    assert fleet[0].look(2, waiting_s=0.06) == 2
    change(fleet[0].live, autopilot=None)
    fleet[1].live.follow()
    assert fleet[0].live.current.policy == fleet[1].live.current.policy == FAST
    newest, older = fleet[1].live.history()[:2]
    assert newest.before == older.after


def test_moves_and_changes_at_the_same_time_leave_all_at_the_last_change(fleet: tuple[Cockpit, Cockpit]) -> None:
    one, other = fleet[0].live, fleet[1].live
    stop = threading.Event()

    def fly() -> None:
        while not stop.is_set():
            current = other.current
            if current.ladder is not None:
                try:
                    other.change(FAST.to_json(), source="autopilot", if_versions=(current.version,))
                except PolicyConflict:
                    continue

    pilot = threading.Thread(target=fly)
    pilot.start()
    for layer in (1, 2, 3):
        change(one, autopilot=WISH)
        other.follow()
        change(one, strategy="budgeted", layer=layer)
        other.follow()
        assert other.current.policy == Budgeted(layer) and version_of(other) == version_of(one)
    stop.set()
    pilot.join()


# a promise


def test_a_promise_is_of_all_replicas_and_what_is_certified_is_of_each(
    redis_server: RedisServer, replicas: Replicas
) -> None:
    one, other = (Watch(replicas.start(name, calibration=PROMISING)) for name in ("one", "other"))
    change(one.live, max_disagreement=0.02)
    other.live.follow()
    assert one.look(*LEVELS) == FASTEST and other.look(SAFE) == SAFE
    for watch in (one, other):
        watch.live.follow()
    assert (one.live.current.policy, other.live.current.policy) == (FASTEST, SAFE)
    assert one.live.current.promise == other.live.current.promise is not None
    assert version_of(one.live) == version_of(other.live) and kept(redis_server) == [1, 2]
    assert one.live.describe().in_force.updated_by == "promise"
    change(other.live, preset="balanced")
    one.live.follow()
    assert one.look(*LEVELS) == MIDDLE and one.live.current.promise is None
