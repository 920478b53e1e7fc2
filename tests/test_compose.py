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
    heads = re.findall(r"^  [\w-]+:.*\n    <<: \*(.+)$", services, re.MULTILINE)
    assert len(heads) == len(re.findall(r"^  [\w-]+:", services, re.MULTILINE)) == 7
    assert heads == ["every-service"] * 4 + ["ner"] + ["every-service"] * 2
    common = composition.partition("\nservices:\n")[0]
    assert all(limit in common for limit in ("pids_limit: 512", "cap_drop: [ALL]", "no-new-privileges:true"))


def test_the_service_answers_to_its_name_among_the_containers() -> None:
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert (
        "NER_ALLOWED_HOSTS: ner,ner-2,${NER_ALLOWED_HOSTS:-}" in composition
    )  # Prometheus and the traffic ask ner:8000


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


def front(certificate: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What docker/haproxy/start.sh does before HAProxy starts."""
    command = ["sh", str(ROOT / "docker" / "haproxy" / "start.sh"), "echo", "started"]
    environment = {"PATH": os.environ["PATH"], "FRONT_CERTIFICATE": str(certificate), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_front_starts_only_where_replicas_share_policy_and_keys(tmp_path: Path) -> None:
    certificate = tmp_path / "front.pem"
    certificate.write_text("a certificate and its key")
    shared = {"HAS_POLICY_STORE": "yes", "HAS_ADMIN_KEY": "yes"}
    assert front(certificate, **shared).stdout == "started\n"
    for name, lacks in (("NER_POLICY_STORE", "HAS_POLICY_STORE"), ("NER_ADMIN_KEY", "HAS_ADMIN_KEY")):
        refused = front(certificate, **{**shared, lacks: ""})
        assert (refused.returncode, refused.stdout) == (2, "") and refused.stderr.startswith(name)
    refused = front(Path(os.devnull), **shared)
    assert refused.returncode == 2 and refused.stderr.startswith("FRONT_CERTIFICATE_FILE")


def test_the_fleet_s_front_and_prometheus_know_the_same_replicas() -> None:
    balanced = re.findall(
        r"-(ner[\w-]*):8000}", (ROOT / "docker" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    )
    scraped = (ROOT / "docker" / "prometheus" / "targets" / "fleet.yml").read_text(encoding="utf-8")
    assert balanced == re.findall(r'"(ner[\w-]*):8001"', scraped) == ["ner", "ner-2"]


def test_the_fleet_s_switches_are_those_of_the_composition() -> None:
    switches = dict(
        re.findall(r"^(\w+)=(.+)$", (ROOT / "docker" / "fleet.env").read_text(encoding="utf-8"), re.MULTILINE)
    )
    composition = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert switches.pop("COMPOSE_PROFILES") == "fleet" and composition.count("profiles: [fleet]") == 3
    assert all(re.search(rf"{name}:|\${{{name}[:}}]", composition) for name in switches)
    assert (ROOT / "docker" / "prometheus" / "targets" / f"{switches['PROMETHEUS_TARGETS']}.yml").is_file()
