"""By which names clients may address the service.

Without this, a page of another site whose name was made to lead here (DNS rebinding) could use a service that needs no
key from a browser on this machine: for the browser, page and service would be of one site.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from service.errors import ServiceError


class HostRefused(ServiceError):
    """The Host header is none of the server's names."""


class AllowedHosts:
    """The names that a Host header may have: addresses and localhost, which nobody can claim, and the operator's."""

    def __init__(self, names: Iterable[str]) -> None:
        """names: of hosts; `*.example.org` stands for every name below example.org, `*` for any name."""
        given = {name.strip().lower() for name in names} - {""}
        self._allows_any = "*" in given
        self._names = {"localhost", *given}
        self._below = tuple(name.removeprefix("*") for name in given if name.startswith("*."))

    def check(self, host: str) -> None:
        """Raise HostRefused for a Host header, with or without a port, that has none of the names."""
        name = _without_port(host).lower().removesuffix(".")
        if self._allows_any or name in self._names or name.endswith(self._below) or _is_address(name):
            return
        raise HostRefused(
            f"the request is for the host {name!r}, which is none of this server's names; use its address or "
            "localhost, or let the operator add the name to NER_ALLOWED_HOSTS"
        )


def host_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the Host header; HTTP/1.0 may leave it out, and then means this machine."""
    return headers.get(b"host", b"localhost").decode("latin-1")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isdigit() or not port) else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
