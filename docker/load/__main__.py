"""`python -m load`: send traffic until SIGTERM; print what came back, as a JSON line every ten seconds and at the end.

LOAD_URL         where to post, http://127.0.0.1:8000/ner
LOAD_PEAK_RATE   requests per second at the dinner hour, 60
NER_API_KEY      sent along if set, as is the key in the file NER_API_KEY_FILE
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

from load.arrivals import arrival_times
from load.client import send
from load.texts import text

REPORT_EVERY_S = 10.0


async def main() -> None:
    """Send each request when it is due, whether or not earlier ones were answered; at the end, wait for all answers."""
    url = os.environ.get("LOAD_URL", "http://127.0.0.1:8000/ner")
    key = os.environ.get("NER_API_KEY") or Path(os.environ.get("NER_API_KEY_FILE", os.devnull)).read_text().strip()
    peak_rate = float(os.environ.get("LOAD_PEAK_RATE", "60"))
    random, outcomes = Random(), Counter[str]()
    running: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)

    async def send_one() -> None:
        outcomes[await send(url, key, text(random))] += 1

    started, reported = time.monotonic(), 0.0
    for due in arrival_times(peak_rate, random):
        if await _is_set_within(ended, due - (time.monotonic() - started)):
            break
        task = asyncio.create_task(send_one())
        running.add(task)
        task.add_done_callback(running.discard)
        if due > reported + REPORT_EVERY_S:
            reported = due
            _report(outcomes, len(running))
    await asyncio.gather(*running)
    _report(outcomes, 0)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await event.wait()
    except TimeoutError:
        return event.is_set()


def _report(outcomes: Counter[str], running: int) -> None:
    print(json.dumps({"running": running, **dict(sorted(outcomes.items()))}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
