"""API key and admin key: where they come from, and how a caller's key is checked."""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from service.errors import BadInput, ServiceError
from service.files import write_whole


class KeyMissing(ServiceError):
    """The caller gave no key for a call that needs one."""


class KeyWrong(ServiceError):
    """The caller gave a key that is none of the server's."""


class KeyTooWeak(ServiceError):
    """The caller gave the API key for a call that needs the admin key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The server's keys. If `api_key` is empty, anybody may read; the admin key allows everything."""

    api_key: str = field(repr=False)
    admin_key: str = field(repr=False)

    def check_read(self, given: str | None) -> None:
        """Raise KeyMissing or KeyWrong unless `given` may send requests and read."""
        if self.api_key and not (_same(given, self.api_key) or _same(given, self.admin_key)):
            raise _refused(given, "the API key or the admin key (NER_API_KEY, NER_ADMIN_KEY)")

    def check_admin(self, given: str | None) -> None:
        """Raise KeyTooWeak for the API key, and KeyMissing or KeyWrong unless `given` is the admin key."""
        if _same(given, self.admin_key):
            return
        if self.api_key and _same(given, self.api_key):
            raise KeyTooWeak("this call needs the admin key (NER_ADMIN_KEY); an API key was given")
        raise _refused(given, "the admin key (NER_ADMIN_KEY)")


def _refused(given: str | None, needed: str) -> ServiceError:
    if not given:
        return KeyMissing(f"no key was given; this call needs {needed}, as 'Authorization: Bearer KEY'")
    return KeyWrong(f"the key that was given is wrong; this call needs {needed}")


def _same(given: str | None, expected: str) -> bool:
    """Compare two keys: `given` is a header that the framework decoded as Latin-1; `expected` is sent as UTF-8."""
    return given is not None and hmac.compare_digest(given.encode("latin-1"), expected.encode())


def read_key(variable: str, key: str, file: str) -> str:
    """Return a key that was given itself or in a file, empty if it was given in neither way; `variable` names it.

    Raises BadInput for both at once, and for a file that cannot be read.
    """
    try:
        kept = _read_key(Path(file)) if file else ""
    except OSError as error:
        raise BadInput(f"{variable}_FILE={file!r} cannot be read: {error.strerror}; let the server read it") from error
    if key and kept:
        raise BadInput(f"{variable} is set, and {variable}_FILE={file!r} has one as well; expected one of them")
    return key or kept


def load_admin_key(configured: str, state_dir: Path) -> tuple[str, Path | None]:
    """Return the admin key and, for a generated one, its file (mode 0600), else None. Raises OSError or BadInput."""
    if configured:
        return configured, None
    path = state_dir / "admin_key"
    if not path.exists() or not _read_key(path):
        write_whole(path, secrets.token_urlsafe(32), mode=0o600)
    if path.stat().st_mode & 0o077:  # a copy or a backup may have left it open to others
        with suppress(OSError):  # a mounted secret may belong to somebody else
            path.chmod(0o600)
    return _read_key(path), path


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no key: it is not UTF-8 ({error.reason}); write one, or remove it") from None


_bearer = HTTPBearer(auto_error=False, description="The API key or the admin key")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def require_read(request: Request, credentials: _Credentials) -> None:
    """Check the key of a request or a read, as a route's dependency. Async, so that it takes no thread."""
    request.app.state.service.keys.check_read(credentials.credentials if credentials else None)


async def require_admin(request: Request, credentials: _Credentials) -> None:
    """Check the key of a change, as a route's dependency."""
    request.app.state.service.keys.check_admin(credentials.credentials if credentials else None)


def check_key(keys: Keys, scope: Scope) -> None:
    """Check the key that a request's route needs before its body is read; the framework would read the body first."""
    for dependency in getattr(scope.get("route"), "dependencies", ()):
        if dependency.dependency is require_read:
            keys.check_read(_given_key(scope))
        elif dependency.dependency is require_admin:
            keys.check_admin(_given_key(scope))


def _given_key(scope: Scope) -> str | None:
    """Return the key that a request brings, by the first header for it, as the framework's HTTPBearer does."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            return (key.strip() or None) if scheme.lower() == "bearer" else None
    return None
