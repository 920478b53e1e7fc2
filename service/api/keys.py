"""API key and admin key: where they come from and how a caller's is compared."""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ServiceError


class KeyMissing(ServiceError):
    """No key, or a wrong one, where one is needed."""


class KeyTooWeak(ServiceError):
    """An API key where the admin key is needed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`api_key` empty: reading is open. The admin key opens everything."""

    api_key: str
    admin_key: str

    def check_read(self, given: str | None) -> None:
        """Raise KeyMissing unless `given` may send requests and read."""
        if self.api_key and not (_same(given, self.api_key) or _same(given, self.admin_key)):
            raise KeyMissing("this call needs the API key or the admin key, as 'Authorization: Bearer KEY'")

    def check_admin(self, given: str | None) -> None:
        """Raise KeyTooWeak for the API key, KeyMissing for anything else but the admin key."""
        if _same(given, self.admin_key):
            return
        if self.api_key and _same(given, self.api_key):
            raise KeyTooWeak("this call needs the admin key (NER_ADMIN_KEY); an API key was given")
        raise KeyMissing("this call needs the admin key (NER_ADMIN_KEY), as 'Authorization: Bearer KEY'")


def _same(given: str | None, expected: str) -> bool:
    """`given` as a header's bytes, which the framework reads as Latin-1; a key is kept as UTF-8."""
    return given is not None and hmac.compare_digest(given.encode("latin-1"), expected.encode())


def load_admin_key(configured: str, state_dir: Path) -> tuple[str, Path | None]:
    """-> the admin key, and the file it is kept in when it was generated (mode 0600)."""
    if configured:
        return configured, None
    path = state_dir / "admin_key"
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        state_dir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        os.replace(partial, path)
    return path.read_text(encoding="utf-8").strip(), path


_bearer = HTTPBearer(auto_error=False, description="The API key or the admin key")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def require_read(request: Request, credentials: _Credentials) -> None:
    """Dependency of requests and reads. Async, so that it takes no thread."""
    request.app.state.service.keys.check_read(credentials.credentials if credentials else None)


async def require_admin(request: Request, credentials: _Credentials) -> None:
    """Dependency of changes."""
    request.app.state.service.keys.check_admin(credentials.credentials if credentials else None)
