"""The container's health check: exit status 0 while the server says that it is ready."""

from __future__ import annotations

import http.client
import os
import sys

port = os.environ.get("NER_HEALTH_PORT") or os.environ["NER_PORT"]
server = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
server.request("GET", "/readyz")
sys.exit(server.getresponse().status != 200)
