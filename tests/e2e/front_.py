"""The composition's HAProxy as a process of its own, in front of any two servers. No test lives here."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Self

import httpx2 as httpx

from tests.api.servers_ import PATIENCE_S, PROJECT, wait_until
from tests.policy.redis_ import free_port

CONFIGURATION = PROJECT / "docker" / "haproxy" / "haproxy.cfg"


def make_certificate(folder: Path) -> Path:
    """A certificate for localhost, signed by itself, with its key behind it."""
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    options = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2", *names)
    key, certificate, both = (folder / name for name in ("key.pem", "certificate.pem", "both.pem"))
    command = ["openssl", "req", *options, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return both


class Front:
    """HAProxy with docker/haproxy/haproxy.cfg, whose replicas are ports of this machine."""

    def __init__(self, folder: Path, *replicas: tuple[int, int]) -> None:
        """replicas: the port for requests and the port for health of each."""
        certificate = make_certificate(folder)
        self.port = free_port()
        self.tls = ssl.create_default_context(cafile=str(certificate))
        self._log = folder / "haproxy.log"
        settings = {"FRONT_ADDRESS": f"127.0.0.1:{self.port}", "FRONT_CERTIFICATE": str(certificate)}
        for number, (port, health_port) in enumerate(replicas, start=1):
            settings[f"REPLICA_{number}"] = f"127.0.0.1:{port}"
            settings[f"REPLICA_{number}_HEALTH_PORT"] = str(health_port)
        with self._log.open("wb") as log:
            command = ["haproxy", "-db", "-f", str(CONFIGURATION)]
            self.process = subprocess.Popen(
                command,
                env={"PATH": "/usr/sbin:/usr/bin:/bin", **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.client = httpx.Client(
            base_url=f"https://localhost:{self.port}", verify=self.tls, timeout=PATIENCE_S, trust_env=False
        )

    def __enter__(self) -> Self:
        wait_until(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        """What HAProxy has said: what needed a retry or failed, and which replicas came and went."""
        return self._log.read_text(encoding="utf-8")

    @property
    def retried(self) -> int:
        """How often a request was sent again."""
        return sum(map(int, re.findall(r" [\w-]{4} \d+/\d+/\d+/\d+/\+?(\d+) ", self.log)))

    def send_at_once(self, request: bytes) -> bytes:
        """A whole request in one piece, on a connection of its own; -> the answer's first line."""
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as bare,
            self.tls.wrap_socket(bare, server_hostname="localhost") as connection,
        ):
            connection.sendall(request)
            return connection.makefile("rb").readline()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"HAProxy ended with {self.process.returncode}: {self.log}")
        try:
            return self.client.get("/a").status_code != 503
        except httpx.TransportError:
            return False
