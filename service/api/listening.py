"""The sockets that the server listens on: bound before the model loads, so that a port in use is told at once."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address

from service.errors import BadInput
from service.settings import Settings


def bind(host: str, port: int, setting: str = "NER_PORT") -> list[socket.socket]:
    """Return a socket for every address of `host`, bound to one port, which `setting` says, and not listening yet.

    `::` takes IPv4 as well; port 0 takes a free one. Raises BadInput for a host or a port that cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadInput(
            f"NER_HOST={host!r} is no address of this machine: {error}; expected an address such as 127.0.0.1, 0.0.0.0 "
            "or ::, or a name of this machine"
        ) from error
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            bound = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            try:
                bound.bind((address[0], port, *address[2:]))
            except OSError as error:
                raise cannot_listen(host, port, error, setting) from error
            port = bound.getsockname()[1]
            sockets.append(bound)
        opened.pop_all()
    return sockets


def bind_health(settings: Settings) -> list[socket.socket]:
    """Return the sockets of the port for health, as `bind` does; none if there is no such port."""
    if settings.health_port is None:
        return []
    return bind(settings.host, settings.health_port, "NER_HEALTH_PORT")


def url_of(host: str, port: int) -> str:
    """Return a URL by which a client on this machine reaches a server that listens on `host`."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ip_address("::1" if isinstance(address, IPv6Address) else "127.0.0.1")
    return f"http://[{address}]:{port}" if isinstance(address, IPv6Address) else f"http://{address}:{port}"


def cannot_listen(host: str, port: int, error: OSError, setting: str = "NER_PORT") -> BadInput:
    """Return the error that tells an operator why there is no listening there, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = {
        errno.EADDRINUSE: f"end what listens there, or choose another {setting}",
        errno.EACCES: f"choose a {setting} from 1024 on",
    }.get(error.errno or 0, "choose a NER_HOST that is an address of this machine")
    return BadInput(f"cannot listen on NER_HOST={host} {setting}={port}: {reason}; {advice}")
