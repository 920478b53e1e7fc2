"""Fixtures of the HTTP API's tests: a tiny model on disk, a shared server, servers of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.state import Service
from tests.api.servers_ import GatedStepper, tiny_service, use_stepper
from tests.exits.calibrations_ import put_calibration
from tests.models_ import save_tiny_model

Start = Callable[..., TestClient]
Build = Callable[..., Service]


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NER_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def calibrated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with CALIBRATION."""
    return put_calibration(save_tiny_model(tmp_path_factory.mktemp("store") / "tiny" / "1"))


@pytest.fixture(scope="module")
def client(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One server for the tests of a module that change nothing in it."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"))
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture
def build(model_folder: Path, tmp_path: Path) -> Build:
    """Build a service that has not started, with settings of the test's own."""

    def build(**settings: Any) -> Service:
        return tiny_service(model_folder, tmp_path / "state", **settings)

    return build


@pytest.fixture
def start(build: Build) -> Iterator[Start]:
    """Start a server: of settings, or of a service that `build` made. Errors become answers, as for real clients."""
    with ExitStack() as stack:

        def start(service: Service | None = None, **settings: Any) -> TestClient:
            app = create_app(service or build(**settings))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture
def gated() -> GatedStepper:
    """A device whose steps wait for its gate."""
    return GatedStepper()


@pytest.fixture
def start_gated(start: Start, build: Build, gated: GatedStepper) -> Iterator[Start]:
    """Start a server on the device that waits; `limits` are the engine's. The gate opens before the server closes."""

    def start_gated(**limits: Any) -> TestClient:
        service = build()
        use_stepper(service, gated, **limits)
        return start(service)

    yield start_gated
    gated.gate.set()
