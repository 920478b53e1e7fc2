"""The policy store that replicas share, in Redis. Which of two histories holds is decided by the live policy."""

from __future__ import annotations

import json
import logging
import reprlib
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import RedisError
from redis.retry import Retry

from service.errors import BadInput
from service.policy.store import (
    PolicyStore,
    PolicyStoreDown,
    StateUnusable,
    StoreMovedOn,
    read_history,
    written_entry,
)
from service.policy.versions import HIGHEST_VERSION, HISTORY_LENGTH, HistoryEntry

log = logging.getLogger(__name__)

TIMEOUT_S = 0.5  # of connecting, and of an answer; a change that is older is not made any more
LONGEST_ENTRY_BYTES = 32_768  # ours have some hundred; what is longer is cut, and so cannot be read

# What the last entry of KEYS[1] is known by: '' for no history, a hash, or the type of what is no list.
_DIGEST = """
local kind = redis.call('TYPE', KEYS[1]).ok
local digest = ''
if kind == 'list' then digest = redis.sha1hex(redis.call('LINDEX', KEYS[1], -1))
elseif kind ~= 'none' then digest = kind end
local now = redis.call('TIME')
local micros = now[1] * 1000000 + now[2]
"""

# ARGV: how many entries at most, of how many bytes. Returns the time, the digest, and the entries, oldest first.
_READ = f"""{_DIGEST}
local entries = {{}}
if kind == 'list' then entries = redis.call('LRANGE', KEYS[1], -tonumber(ARGV[1]), -1) end
for number, entry in ipairs(entries) do entries[number] = string.sub(entry, 1, tonumber(ARGV[2])) end
return {{string.format('%.0f', micros), digest, entries}}
"""

# ARGV: the digest that was read, until when (microseconds), how many entries to keep, the new entries.
_APPEND = f"""{_DIGEST}
if micros > tonumber(ARGV[2]) then return 'late' end
if digest ~= ARGV[1] then return 'moved on' end
for number = 4, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[number]) end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[3]), -1)
redis.call('PUBLISH', KEYS[1], 'changed')
return 'done'
"""

# ARGV: the digest that was read, until when. KEYS[2] is the new name, which is free.
_SET_ASIDE = f"""{_DIGEST}
if micros > tonumber(ARGV[2]) then return 'late' end
if digest ~= ARGV[1] then return 'moved on' end
redis.call('RENAMENX', KEYS[1], KEYS[2])
return 'done'
"""


class RedisStore:
    """Keeps the history of one model in a list of Redis, one JSON object an entry. See PolicyStore.

    The list's last entry is the policy in force, so that there is nothing beside it that could contradict it. Whoever
    saves appends to the very entry that they read last (compare-and-set, by a script), and publishes that on the
    channel of the same name. A script that Redis comes to only after the caller has given up does nothing.

    A copy of what was read and saved last is kept in a store of this machine, for a start while Redis is away.
    """

    is_shared = True

    def __init__(self, url: str, model: str, copy: PolicyStore) -> None:
        """url: redis:// or, over TLS, rediss://, with password and database; model: name@version.

        Nothing is connected yet. Raises BadInput for a URL that is none.
        """
        self.name = _without_secrets(url)
        self._key = f"ner:exit-policy:{{{model}}}"  # in braces: what is set aside stays on the same node of a cluster
        self._copy = copy
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
            )
            self._redis.connection_pool.make_connection()  # raises what it thinks of the options in the URL
        except (ValueError, TypeError) as error:
            raise BadInput(f"NER_POLICY_STORE={self.name!r} cannot be used: {error}; {_EXPECTED}") from None
        self._found: HistoryEntry | None = None  # what was read last; and below by which it is known, and when
        self._digest = ""
        self._micros = 0
        self._pushes: PubSub | None = None

    def load(self) -> tuple[HistoryEntry, ...]:
        """See PolicyStore. While nothing was ever read from Redis and it is away, return the copy, if there is one."""
        try:
            history = self._read(HISTORY_LENGTH)
        except PolicyStoreDown as error:
            copied = self._copied() if self._micros == 0 else ()
            if not copied:
                raise
            log.warning("policy from the copy", extra={"data": {"reason": str(error), "version": copied[-1].version}})
            return copied
        if history:
            self._keep_copy(history)
        return history

    def newest(self) -> HistoryEntry | None:
        """See PolicyStore."""
        self._read(1)
        return self._found

    def set_aside(self) -> str:
        """See PolicyStore."""
        place = f"{self._key}:unusable-{self._micros}"
        self._run(_SET_ASIDE, [self._key, place], self._digest, self._latest())
        self._found, self._digest = None, ""
        return f"{self.name} {place}"

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """See PolicyStore."""
        if history[-1].version > HIGHEST_VERSION:
            raise PolicyStoreDown(f"version {history[-1].version} is too high for others to follow; remove {self._key}")
        new = history[history.index(self._found) + 1 :] if self._found else history
        texts = [json.dumps(written_entry(entry)) for entry in new]
        self._run(_APPEND, [self._key], self._digest, self._latest(), HISTORY_LENGTH, *texts)
        self._keep_copy(history)

    def wait(self, seconds: float) -> None:
        """Return as soon as somebody has saved, at the latest after so many seconds. Pushes may be lost."""
        try:
            if self._pushes is None:
                self._pushes = self._redis.pubsub(ignore_subscribe_messages=True)
                self._pushes.subscribe(self._key)
            self._pushes.get_message(timeout=seconds)
        except (RedisError, OSError):
            self._stop_listening()
            time.sleep(seconds)

    def close(self) -> None:
        """End the connections; nobody may be waiting."""
        self._stop_listening()
        self._redis.close()

    def _stop_listening(self) -> None:
        pushes, self._pushes = self._pushes, None
        if pushes is not None:
            with suppress(RedisError, OSError):
                pushes.close()

    def _read(self, most: int) -> tuple[HistoryEntry, ...]:
        """Return at most so many of the newest entries, oldest first; remember the newest, and when it was."""
        micros, digest, texts = self._ask(_READ, [self._key], most, LONGEST_ENTRY_BYTES)
        self._found, self._digest, self._micros = None, digest.decode(), int(micros)
        if digest and not texts:
            raise StateUnusable(f"{self._key} in {self.name} was unusable: it is no list, but a {self._digest}")
        try:
            history = read_history([json.loads(text.decode()) for text in texts])
            if history and history[-1].version > HIGHEST_VERSION:
                raise BadInput(f"version {history[-1].version} is too high for others to follow")
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError, BadInput) as error:
            raise StateUnusable(f"{self._key} in {self.name} was unusable: {reprlib.repr(str(error))}") from error
        self._found = history[-1] if history else None
        return history

    def _latest(self) -> int:
        """Return the time of Redis up to which a change is made that follows what was read last, in microseconds."""
        return self._micros + round(TIMEOUT_S * 1_000_000)

    def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> None:
        """Run a script that changes something. Raises PolicyStoreDown or StoreMovedOn, and then it has not."""
        said = self._ask(script, keys, *arguments)
        if said == b"moved on":
            raise StoreMovedOn(f"somebody else has changed {self._key} in {self.name}")
        if said != b"done":
            raise PolicyStoreDown(f"the policy store {self.name} is too slow: it took more than {TIMEOUT_S} s")

    def _ask(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        try:
            return self._redis.eval(script, len(keys), *keys, *arguments)
        except (RedisError, OSError, UnicodeError) as error:  # the last of a host that is no name
            raise PolicyStoreDown(f"the policy store {self.name} cannot be used: {error}") from error

    def _copied(self) -> tuple[HistoryEntry, ...]:
        try:
            return self._copy.load()
        except StateUnusable as error:
            log.warning("no copy of the policy", extra={"data": {"reason": str(error)}})
            return ()

    def _keep_copy(self, history: Sequence[HistoryEntry]) -> None:
        try:
            self._copy.save(history)
        except OSError as error:
            log.warning("no copy of the policy was kept", extra={"data": {"reason": str(error)}})


_EXPECTED = "expected redis://HOST:PORT/DATABASE, or rediss:// for TLS"


def _without_secrets(url: str) -> str:
    """Return the URL as it may be shown: scheme, host, port and path. Raises BadInput for what is no URL of Redis."""
    try:
        parts = urlsplit(url)
        place = f"{parts.hostname}:{parts.port or 6379}{parts.path}"
    except ValueError:  # whose text may have a part of the password
        raise BadInput(f"NER_POLICY_STORE is no URL, or has a character that must be escaped; {_EXPECTED}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise BadInput(f"NER_POLICY_STORE has the scheme {parts.scheme!r} and the host {parts.hostname!r}; {_EXPECTED}")
    return f"{parts.scheme}://{place}"
