"""Real servers beside which the simulation is held: started under a policy, watched, and ended for certain."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load_servers import ADMIN_KEY, Server, start_checkout
from service.models.store import StoredModel

HERE = Path(__file__).resolve().parents[2]


@contextmanager
def start(
    stored: StoredModel, change: Mapping[str, Any], settings: Mapping[str, str], folder: Path
) -> Iterator[Server]:
    """Yield a server of this checkout with a model, settings and a change of the exit policy; then end it."""
    given = {"NER_MODEL": str(stored.folder.resolve()), "NER_ADMIN_KEY": ADMIN_KEY, "NER_SHADOW_FRACTION": "0"}
    with TemporaryDirectory(dir=folder) as own:
        server = start_checkout(HERE, {**given, **settings}, Path(own))
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
            body = json.dumps(change).encode()
            request = urllib.request.Request(f"{server.url}/exit-policy", body, headers, method="PATCH")
            urllib.request.urlopen(request).close()
            yield server
        finally:
            server.close()


def processor_s(pid: int) -> float:
    """Return the processor seconds of a process's first thread so far: in a server, that of the event loop (Linux)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
