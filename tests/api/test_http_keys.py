"""Who may do what: the API key, the admin key, and neither."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.keys import KeyMissing, Keys, KeyWrong, load_admin_key
from service.api.state import Service
from service.errors import BadInput
from tests.api.servers_ import AS_ADMIN, tiny_service

Start = Callable[..., TestClient]
Build = Callable[..., Service]
API_KEY = "the-api-key"
AS_CLIENT = {"Authorization": f"Bearer {API_KEY}"}
Headers = Mapping[str, str | bytes]
READS = [
    ("POST", "/ner"),
    ("POST", "/"),
    ("POST", "/analyze"),
    ("GET", "/supportedentities"),
    ("GET", "/exit-policy"),
    ("GET", "/exit-policy/history"),
    ("GET", "/exit-policy/operating-points"),
    ("GET", "/models"),
    ("GET", "/info"),
]
OPEN = ["/livez", "/readyz", "/health", "/metrics", "/docs", "/openapi.json"]
NO_KEYS: list[Headers] = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Basic {API_KEY}"},
    {"Authorization": API_KEY},
    {"Authorization": b"Bearer \xff\xfe"},
]


def status(client: TestClient, method: str, path: str, headers: Headers) -> int:
    """The status of a call that would succeed if the key does."""
    body = {"/ner": {"text": "a"}, "/": {"inputs": "a"}, "/analyze": {"text": "a", "language": "en"}}.get(
        path, {"tau": -0.5}
    )
    raw = {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in headers.items()}
    return client.request(method, path, headers=raw, json=None if method == "GET" else body).status_code


@pytest.fixture(scope="module")
def guarded(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server whose reads need a key."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), api_key=API_KEY)
    with TestClient(create_app(service)) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), READS)
def test_with_an_api_key_set_requests_and_reads_need_a_key(guarded: TestClient, method: str, path: str) -> None:
    assert [status(guarded, method, path, headers) for headers in NO_KEYS] == [401] * len(NO_KEYS)
    assert status(guarded, method, path, AS_CLIENT) == status(guarded, method, path, AS_ADMIN) == 200


@pytest.mark.parametrize("path", OPEN)
def test_health_metrics_and_docs_never_need_a_key(guarded: TestClient, path: str) -> None:
    assert [status(guarded, "GET", path, headers) for headers in ({}, NO_KEYS[1], AS_CLIENT)] == [200, 200, 200]


def test_a_change_needs_the_admin_key(guarded: TestClient) -> None:
    assert [status(guarded, "PATCH", "/exit-policy", headers) for headers in NO_KEYS] == [401] * len(NO_KEYS)
    assert status(guarded, "PATCH", "/exit-policy", AS_CLIENT) == 403
    assert status(guarded, "PATCH", "/exit-policy?dry_run=true", AS_CLIENT) == 403
    assert status(guarded, "PATCH", "/exit-policy", AS_ADMIN) == 200


@pytest.mark.parametrize(("method", "path"), READS)
def test_where_nothing_needs_a_key_an_unsolicited_one_is_ignored(client: TestClient, method: str, path: str) -> None:
    for headers in (*NO_KEYS, AS_ADMIN):
        assert status(client, method, path, headers) == 200


def test_a_change_needs_the_admin_key_even_where_reading_is_open(client: TestClient) -> None:
    assert status(client, "PATCH", "/exit-policy", {}) == 401
    assert status(client, "PATCH", "/exit-policy", AS_CLIENT) == 401


def test_no_page_of_another_site_may_read_or_send(client: TestClient) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answers = [client.options(path, headers=asked) for path in ("/ner", "/exit-policy", "/info")]
    answers += [client.get("/info", headers=origin), client.post("/ner", json={"text": "a"}, headers=origin)]
    assert [answer.status_code for answer in answers] == [204, 204, 204, 200, 200]
    assert not [name for answer in answers for name in answer.headers if name.lower().startswith("access-control")]
    simple = {**origin, "Content-Type": "text/plain"}  # what a page may send without having asked
    assert client.post("/ner", content=b'{"text": "a"}', headers=simple).status_code == 422


def test_a_wrong_key_is_called_wrong_and_a_missing_one_missing(guarded: TestClient) -> None:
    told = [guarded.get("/info", headers=headers).json() for headers in ({}, {"Authorization": "Bearer neither"})]
    assert [body["error_type"] for body in told] == ["KeyMissing", "KeyWrong"]
    assert "no key was given" in told[0]["error"] and "wrong" in told[1]["error"]


def test_the_scheme_is_read_in_any_case(guarded: TestClient) -> None:
    assert status(guarded, "GET", "/info", {"Authorization": f"bearer {API_KEY}"}) == 200


def test_a_key_of_any_characters_opens_its_lock(start: Start) -> None:
    client = start(api_key="clé-钥匙")
    assert status(client, "GET", "/info", {"Authorization": "Bearer clé-钥匙".encode()}) == 200
    assert status(client, "GET", "/info", {"Authorization": b"Bearer cl\xe9"}) == 401


def test_an_empty_admin_key_is_no_key() -> None:
    with pytest.raises(KeyMissing):
        Keys(api_key="", admin_key="secret").check_admin("")


def test_a_generated_admin_key_is_kept_for_its_owner_alone_and_stays(
    build: Build, start: Start, tmp_path: Path
) -> None:
    client = start(build(admin_key=""))
    path = tmp_path / "state" / "admin_key"
    key = path.read_text(encoding="utf-8").strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) >= 32
    assert status(client, "PATCH", "/exit-policy", {"Authorization": f"Bearer {key}"}) == 200
    assert build(admin_key="").keys.admin_key == key
    assert [left.name for left in path.parent.iterdir() if "partial" in left.name] == []


def test_the_path_of_a_generated_key_is_logged_and_the_key_is_not(
    build: Build, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    service = build(admin_key="")
    (record,) = [record for record in caplog.records if record.getMessage() == "admin key"]
    assert record.__dict__["data"] == {"file": str(tmp_path / "state" / "admin_key")}
    assert not any(service.keys.admin_key in str(record.__dict__) for record in caplog.records)


def test_a_configured_admin_key_is_written_nowhere(tmp_path: Path) -> None:
    assert load_admin_key("configured", tmp_path / "state") == ("configured", None)
    assert not (tmp_path / "state").exists()


def test_two_generated_keys_differ(tmp_path: Path) -> None:
    keys = {load_admin_key("", tmp_path / name)[0] for name in ("a", "b")}
    assert len(keys) == 2


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b"{}"])
def test_without_a_key_nothing_is_said_of_the_body(guarded: TestClient, body: bytes) -> None:
    for method, path in (("POST", "/ner"), ("PATCH", "/exit-policy")):
        response = guarded.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 401


def test_every_path_that_is_described_with_a_key_checks_it(guarded: TestClient) -> None:
    paths = guarded.get("/openapi.json").json()["paths"]
    locked = {
        (m.upper(), p) for p, methods in paths.items() for m, described in methods.items() if "security" in described
    }
    assert locked >= {*READS, ("PATCH", "/exit-policy")}
    for method, path in locked:
        assert guarded.request(method, path, content=b"{").status_code == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("hmac.compare_digest", lambda *both: compared.append(both) or both[0] == both[1])
    keys = Keys(api_key="read", admin_key="change")
    keys.check_read("read")
    keys.check_admin("change")
    for check in (keys.check_read, keys.check_admin):
        with pytest.raises(KeyWrong):
            check("neither")
    assert compared.count((b"neither", b"read")) == compared.count((b"neither", b"change")) == 2


def test_keys_are_not_shown_with_what_holds_them(build: Build) -> None:
    service = build(api_key="an-api-key", admin_key="an-admin-key")
    assert "key" in repr(service)
    assert "an-api-key" not in repr(service) and "an-admin-key" not in repr(service)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o622])
def test_a_key_file_that_is_open_to_others_is_closed_to_them(tmp_path: Path, mode: int) -> None:
    key, path = load_admin_key("", tmp_path)
    assert path is not None
    path.chmod(mode)
    assert load_admin_key("", tmp_path) == (key, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "admin_key").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"admin_key is no key: .*remove it"):
        load_admin_key("", tmp_path)


def test_an_empty_key_file_is_filled_again(tmp_path: Path) -> None:
    (tmp_path / "admin_key").write_text("", encoding="utf-8")
    key, _ = load_admin_key("", tmp_path)
    assert len(key) >= 32
    assert load_admin_key("", tmp_path)[0] == key


def test_keys_may_come_from_files(start: Start, tmp_path: Path) -> None:
    for name, key in (("api", "of-the-api\n"), ("admin", "of-the-admin\n")):
        (tmp_path / name).write_text(key)
    client = start(admin_key="", api_key_file=str(tmp_path / "api"), admin_key_file=str(tmp_path / "admin"))
    of_api, of_admin = ({"Authorization": f"Bearer of-the-{name}"} for name in ("api", "admin"))
    assert [status(client, "GET", "/info", headers) for headers in ({}, of_api, of_admin)] == [401, 200, 200]
    assert [status(client, "PATCH", "/exit-policy", headers) for headers in ({}, of_api, of_admin)] == [401, 403, 200]


def test_an_empty_key_file_counts_as_unset(build: Build, tmp_path: Path) -> None:
    service = build(admin_key="", api_key_file="/dev/null", admin_key_file="/dev/null")
    assert service.keys.api_key == "" and len(service.keys.admin_key) > 30


def test_a_key_that_is_given_twice_or_whose_file_is_not_there_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("b")
    with pytest.raises(BadInput, match="NER_API_KEY is set, and NER_API_KEY_FILE="):
        build(api_key="a", api_key_file=str(tmp_path / "key"))
    assert build(api_key="a", api_key_file="/dev/null").keys.api_key == "a"
    with pytest.raises(BadInput, match="NER_ADMIN_KEY_FILE='/nowhere' cannot be read: No such file"):
        build(admin_key="", admin_key_file="/nowhere")
