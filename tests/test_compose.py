"""What docker-compose.yml says, as far as it can be told without Docker."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
OF_THE_IMAGE = {"NER_MODEL_STORE", "NER_STATE_DIR"}  # folders in the image


def test_every_setting_reaches_the_container() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    passed = re.findall(r"^ {6}(NER_\w+):", composition.partition("\n  prometheus:\n")[0], re.MULTILINE)
    settings = {f"NER_{name.upper()}" for name in Settings.model_fields}
    assert len(passed) == len(set(passed))
    assert set(passed) == settings - OF_THE_IMAGE, "a setting belongs into the environment of `ner` as well"


def test_every_service_is_limited_and_has_no_rights() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    services = composition.partition("\nservices:\n")[2].partition("\nsecrets:")[0]
    assert services.count("<<: *every-service") == len(re.findall(r"^  \w+:", services, re.MULTILINE)) == 4
    common = composition.partition("\nservices:\n")[0]
    assert all(limit in common for limit in ("pids_limit: 512", "cap_drop: [ALL]", "no-new-privileges:true"))


def test_the_service_answers_to_its_name_among_the_containers() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "NER_ALLOWED_HOSTS: ner,${NER_ALLOWED_HOSTS:-}" in composition  # Prometheus and the traffic ask ner:8000


def test_nobody_looks_at_grafana_without_a_password_unless_that_is_asked_for() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "GF_AUTH_ANONYMOUS_ENABLED: ${GRAFANA_ANONYMOUS:-false}" in composition
    assert "entrypoint: [/bin/sh, /etc/start-grafana.sh, /run.sh]" in composition


def password(data: Path, secret: Path | str = os.devnull, **environment: str) -> str:
    """With which docker/grafana/start.sh starts Grafana."""
    say = ("sh", "-c", 'printf %s "$GF_SECURITY_ADMIN_PASSWORD"')
    settings = {"GRAFANA_PASSWORD_FILE": str(secret), "GF_PATHS_DATA": str(data), **environment}
    command = ["sh", str(ROOT / "docker" / "grafana" / "start.sh"), *say]
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"], **settings}, check=True, capture_output=True, text=True
    ).stdout


def test_grafana_s_password_is_the_given_one_or_else_a_secret_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of-a-file\n")
    assert password(tmp_path, tmp_path / "secret", GF_SECURITY_ADMIN_PASSWORD="other") == "of-a-file"
    assert password(tmp_path, GF_SECURITY_ADMIN_PASSWORD="of-a-variable") == "of-a-variable"
    generated = password(tmp_path)
    assert len(generated) == 32 and generated == password(tmp_path)
    assert (tmp_path / "admin_password").stat().st_mode & 0o077 == 0
