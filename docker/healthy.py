"""The container's health check: exit status 0 while the server says that it is ready."""

from __future__ import annotations

import http.client
import os
import sys

server = http.client.HTTPConnection("127.0.0.1", int(os.environ["NER_PORT"]), timeout=4)
server.request("GET", "/readyz")
sys.exit(server.getresponse().status != 200)
