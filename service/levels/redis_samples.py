"""The stream of Redis into which replicas put their samples, in one order for all. What entries say, others know."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import RedisError

from service.levels.pooled import Exchanged, Place
from service.policy.redis_store import client_of, without_secrets
from service.policy.store import PolicyStoreDown

ENTRIES_KEPT = 10_000  # about; they take some 5 MB
LONGEST_ENTRY_BYTES = 32_768  # ours have some hundred; what is longer is cut, and so cannot be read

# ARGV: how many entries to keep; behind which place to read, how many entries at most, of how many bytes; new entries.
# Returns the places of the new entries; and place and text of those that were read, oldest first.
_EXCHANGE = """
local added, entries = {}, {}
for number = 5, #ARGV do
  added[#added + 1] = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'sample', ARGV[number])
end
local found = redis.call('XREAD', 'COUNT', ARGV[3], 'STREAMS', KEYS[1], ARGV[2])
if found then
  for number, entry in ipairs(found[1][2]) do
    entries[number] = {entry[1], string.sub(entry[2][2], 1, tonumber(ARGV[4]))}
  end
end
return {added, entries}
"""


class RedisSamples:
    """Keeps the latest samples of one model in a stream. See SampleStream."""

    def __init__(self, url: str, model: str) -> None:
        """url, model: as of RedisStore. Nothing is connected yet. Raises BadInput for a URL that is none."""
        self._key = f"ner:samples:{{{model}}}"
        self.name = f"{self._key} in {without_secrets(url)}"
        self._redis = client_of(url)

    def exchange(self, texts: Sequence[str], after: Place, most: int) -> Exchanged:
        """See SampleStream."""
        limits = [ENTRIES_KEPT, "{}-{}".format(*after), most, LONGEST_ENTRY_BYTES]
        try:
            added, entries = self._redis.eval(_EXCHANGE, 1, self._key, *limits, *texts)
        except (RedisError, OSError, UnicodeError) as error:
            raise PolicyStoreDown(f"{self.name} cannot be used: {error}") from error
        return Exchanged([_place(of) for of in added], [(_place(of), text) for of, text in entries])

    def close(self) -> None:
        """End the connections."""
        self._redis.close()


def _place(of: bytes) -> Place:
    milliseconds, number = of.decode().split("-")
    return int(milliseconds), int(number)
