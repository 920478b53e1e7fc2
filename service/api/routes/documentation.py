"""GET /docs and /redoc: the description of every call, as pages that need nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse

from service.api.routes.console import PAGE_HEADERS, content_security_policy

ASSETS = "/docs-assets"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def swagger(request: Request) -> HTMLResponse:
    """Return the page of Swagger UI, on which calls can be tried."""
    root: str = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=f"{request.app.title} - Swagger UI",
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
    )
    return _guarded(page)


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    """Return the page of ReDoc."""
    root: str = request.scope.get("root_path", "")
    page = get_redoc_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=f"{request.app.title} - ReDoc",
        redoc_js_url=f"{root}{ASSETS}/redoc.standalone.js",
        redoc_favicon_url=f"{root}{ASSETS}/favicon.png",
        with_google_fonts=False,
    )
    return _guarded(page)


def _guarded(page: HTMLResponse) -> HTMLResponse:
    """Put the console's headers on a page; both libraries also bring styles, pictures and a worker along as text."""
    scripts = (hashlib.sha256(script).digest() for script in _SCRIPT.findall(bytes(page.body)))
    policy = content_security_policy(
        script=("'self'", *(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in scripts)),
        style=("'self'", "'unsafe-inline'"),
        img=("'self'", "data:"),
        worker=("blob:",),
    )
    page.headers.update({**PAGE_HEADERS, "Content-Security-Policy": policy})
    return page
