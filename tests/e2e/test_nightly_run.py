"""A server that calibrates itself from its traffic at a time of day, all of it as it runs for an operator.

What the command finds is tried elsewhere; here that it runs, has samples enough, and leaves what it says.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
from load.texts import text

from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, PATIENCE_S, ServerProcess, wait_until

TEXTS, AT_ONCE = 1_200, 40
UNTIL_THEN = timedelta(seconds=90)  # to start, and to run all samples
LONGEST_RUN_S = 900.0  # it has the lowest priority, and the machine may be busy


def test_at_the_time_of_day_points_are_fitted_to_the_traffic(tmp_path: Path) -> None:
    then = datetime.now(UTC) + UNTIL_THEN
    settings = {"NER_MODEL": "conll2003-minilm", "NER_STATE_DIR": str(tmp_path / "state"), "NER_ADMIN_KEY": ADMIN_KEY}
    settings |= {"NER_SAMPLE_FRACTION": "1", "NER_CALIBRATE_AT": f"{then:%H:%M}"}
    server = ServerProcess(tmp_path, **settings)
    try:
        url = server.wait_ready()
        with httpx.Client(base_url=url, headers=AS_ADMIN, timeout=PATIENCE_S, trust_env=False) as client:
            draw = random.Random(7)
            for _ in range(TEXTS // AT_ONCE):
                asked = {"texts": [text(draw) for _ in range(AT_ONCE)]}
                assert client.post("/ner", json=asked).status_code == 200
            deadline = time.monotonic() + LONGEST_RUN_S
            while server.event("calibrated from traffic") is None and time.monotonic() < deadline:
                time.sleep(1.0)
            told = server.event("calibrated from traffic")
            assert told is not None and told["code"] == 0, server.log
            fits = client.get("/exit-policy/fits").json()  # on such texts the model's own points are hard to better
            outcomes = {0: "nothing was installed: that is no clear gain", 1: "installed as fit 1"}
            assert told["told"].startswith(outcomes[fits["in_force"]]) and len(fits["fits"]) == fits["in_force"]
            wait_until(lambda: client.post("/ner", json={"text": "Ada met Bob."}).status_code == 200)
        server.terminate()
        assert server.wait_end() == 0
    finally:
        server.kill()
