"""GET /: the console, a static page, and its assets. These need no key, but the calls that the page makes do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).resolve().parent.parent / "console"
_PAGE = "index.html"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",  # browsers keep it, but ask each time: page and assets always belong together
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def content_security_policy(**sources: Sequence[str]) -> str:
    """Return the policy of a page that may load its own files alone, and that nobody may frame.

    sources  by kind of what is loaded, such as `script`: from where, if not from the page's own origin alone
    """
    allowed = {**dict.fromkeys(("script", "style", "img", "connect"), ("'self'",)), **sources}
    return "; ".join(
        (
            "default-src 'none'",
            *(f"{kind}-src {' '.join(origins)}" for kind, origins in allowed.items()),
            *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        )
    )


_HEADERS = {
    **PAGE_HEADERS,
    # text never becomes markup, whatever a later edit does
    "Content-Security-Policy": f"{content_security_policy()}; require-trusted-types-for 'script'",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    headers: Mapping[str, str]


@cache
def _assets() -> Mapping[str, _Asset]:
    """Return every file of the folder by its name; they are read once."""
    assets = {}
    for path in (path for path in FOLDER.iterdir() if path.suffix in _CONTENT_TYPES):
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {**_HEADERS, "ETag": etag, "Content-Type": _CONTENT_TYPES[path.suffix]}
        assets[path.name] = _Asset(body, headers)
    return assets


@router.get("/")
async def page(request: Request) -> Response:
    """Return the page. Its links are relative, so that it works under any prefix."""
    return _respond(request, _PAGE)


@router.get("/console/{name}")
async def asset(request: Request, name: str) -> Response:
    """Return a style sheet, a script or the icon."""
    if name == _PAGE or name not in _assets():
        raise HTTPException(404)
    return _respond(request, name)


def _respond(request: Request, name: str) -> Response:
    found = _assets()[name]
    if found.headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=found.headers)
    return Response(found.body, headers=found.headers)
