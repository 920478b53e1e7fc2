"""GET /: the console's page and assets as they are served. What the page does is tested in a browser, in tests/e2e."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.routes.console import FOLDER
from service.api.state import Service
from service.exits.policies import STRATEGIES

Start = Callable[..., TestClient]
Build = Callable[..., Service]
ASSETS = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")
PATHS = ["/", *(f"/console/{name}" for name in ASSETS)]
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def referred_to(source: str) -> list[str]:
    """What a page or module loads: addresses of its elements, and of the modules that it imports."""
    return re.findall(r"""(?:\b(?:src|href)=|\bfrom )"([^"#]+)\"""", source)


def test_the_page_is_html_in_utf_8(client: TestClient) -> None:
    response = client.get("/")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_has_its_content_type_and_the_bytes_of_its_file(client: TestClient, name: str) -> None:
    response = client.get(f"/console/{name}")
    assert response.headers["Content-Type"] == CONTENT_TYPES[Path(name).suffix]
    assert response.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", PATHS)
def test_the_browser_keeps_a_copy_and_asks_whether_it_still_holds(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.headers["Cache-Control"] == "no-cache"
    etag = response.headers["ETag"]
    again = client.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_only_our_own_files_may_run_load_or_frame(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        **dict.fromkeys(("script-src", "style-src", "img-src", "connect-src"), "'self'"),
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
        "require-trusted-types-for": "'script'",
    }
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_of_the_documentation_may_run_their_own_script_alone_and_be_framed_by_nobody(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert policy["script-src"].split() == ["'self'", *(f"'sha256-{digest}'" for digest in digests)]
    assert policy.items() >= {"default-src": "'none'", "connect-src": "'self'", "frame-ancestors": "'none'"}.items()
    assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


def test_the_page_has_no_script_or_style_of_its_own(client: TestClient) -> None:
    html = client.get("/").text
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


@pytest.mark.parametrize("name", ["index.html", *ASSETS])
def test_nothing_refers_to_another_host(name: str) -> None:
    source = (FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not loaded
    assert not re.search(r"""https?:|["'(]//|@import|url\(""", source)


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_no_module_knows_a_strategy_by_its_name(name: str) -> None:
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert re.findall(rf"\b({'|'.join(STRATEGIES)})\b", source) == []


@pytest.mark.parametrize("prefix", ["", "/a/prefix"])
def test_everything_that_is_referred_to_is_there_under_a_proxys_prefix_too(build: Build, prefix: str) -> None:
    with TestClient(create_app(build()), root_path=prefix) as client:
        waiting, seen = [f"{prefix}/"], set[str]()
        while waiting:
            address = waiting.pop()
            if address in seen:
                continue
            seen.add(address)
            response = client.get(address)
            assert response.status_code == 200, address
            if address.endswith(("/", ".js")):
                waiting += [urljoin(address, found) for found in referred_to(response.text)]
    assert {f"{prefix}/console/{name}" for name in ASSETS} | {f"{prefix}/docs", f"{prefix}/metrics"} < seen


@pytest.mark.parametrize("name", ["index.html", "missing.js", "..%2Fapp.py", "__init__.py"])
def test_what_is_no_asset_is_not_found(client: TestClient, name: str) -> None:
    response = client.get(f"/console/{name}")
    assert (response.status_code, response.json()["error_type"]) == (404, "NotFound")


def test_the_page_needs_no_key(start: Start) -> None:
    client = start(api_key="an-api-key")
    assert [client.get(path).status_code for path in PATHS] == [200] * len(PATHS)


def test_the_page_is_for_people_and_not_part_of_the_api(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "get" not in paths.get("/", {})
    assert [path for path in paths if path.startswith("/console")] == []


def test_the_endpoint_label_of_the_assets_is_one(client: TestClient) -> None:
    client.get("/console/main.js")
    client.get("/console/style.css")
    assert 'endpoint="/console/{name}"' in client.get("/metrics").text
    assert "main.js" not in client.get("/metrics").text
