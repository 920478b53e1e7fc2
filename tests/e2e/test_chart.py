"""The chart: what Helm makes of its values is what Kubernetes takes and the service needs. No cluster runs it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import RedisError

from service.settings import Settings
from tests.api.servers_ import PROJECT, wait_until
from tests.e2e.chart_ import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    Helm,
    Manifest,
    Refused,
    environment,
    kinds,
    of_kind,
    pod,
    problems,
)
from tests.e2e.panels_ import DASHBOARDS
from tests.e2e.prometheus_ import RULES, rules
from tests.policy.redis_ import free_port, needs_redis

MONITORING = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "rulesConfigMap", "dashboards")}
EVERYTHING: dict[str, Any] = {
    "autoscaling": {"enabled": True},
    "ingress": {"enabled": True, "className": "haproxy", "hosts": ["ner.example.org"], "tls": [{"secretName": "tls"}]},
    "monitoring": MONITORING,
    "networkPolicy": {
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    },
    "model": {"name": "/models/mine", "volume": {"persistentVolumeClaim": {"claimName": "models"}}},
    "settings": {"NER_CACHE_BYTES": 64_000_000, "NER_SHADOW_FRACTION": 0.02, "NER_ACCESS_LOG": True},
}
ALONE: dict[str, Any] = {"replicas": 1, "redis": {"enabled": False}, "persistence": {"enabled": True}}
OF_YOURS: dict[str, Any] = {
    "image": {"repository": "registry.example.org/ner", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "keys": {"existingSecret": "keys", "requireApiKey": True},
    "redis": {"enabled": False},
    "policyStore": {"existingSecret": "redis", "existingSecretKey": "address", "port": 6380},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "ner", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "online",
    "podAnnotations": {"example.org/team": "names"},
}
NOTHING_OPTIONAL: dict[str, Any] = {
    **{name: {"enabled": False} for name in ("podDisruptionBudget", "networkPolicy")},
    "spreadOverNodes": False,
}
VARIANTS = {"defaults": {}, "everything": EVERYTHING, "alone": ALONE, "yours": OF_YOURS, "nothing": NOTHING_OPTIONAL}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def defaults(helm: Helm) -> list[Manifest]:
    return helm.render()


@pytest.fixture(scope="module")
def everything(helm: Helm) -> list[Manifest]:
    return helm.render(**EVERYTHING)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_manifest_fits_the_strict_schema_of_its_kind(helm: Helm, kubernetes: str, values: dict[str, Any]) -> None:
    manifests = helm.render(kubernetes, **values)
    assert len(manifests) == len(kinds(manifests)) >= 5
    assert [problem for manifest in manifests for problem in problems(manifest, kubernetes)] == []


@pytest.mark.parametrize("kind", ["Deployment", "ServiceMonitor", "PrometheusRule", "ScaledObject"])
def test_a_field_that_does_not_exist_is_told(everything: list[Manifest], kind: str) -> None:
    manifest = of_kind(everything, kind)
    wrong = {**manifest, "spec": {**manifest["spec"], "replicaz": 2}}
    [problem] = problems(wrong, KUBERNETES[-1])
    assert kind in problem and "replicaz" in problem


def test_helm_s_own_lint_finds_no_fault(helm: Helm) -> None:
    said = helm.run("lint", str(CHART), "--strict", values=EVERYTHING)
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_what_is_packaged_has_rules_and_dashboards_in_it(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", str(CHART), "--destination", str(tmp_path))
    [package] = tmp_path.iterdir()
    where = ("template", "fleet", str(package), "--namespace", NAMESPACE)
    packaged = [one for one in yaml.safe_load_all(helm.run(*where, values={"monitoring": MONITORING})) if one]
    assert {("ConfigMap", "fleet-vee-ner-rules"), ("ConfigMap", "fleet-vee-ner-dashboard-overview")} <= kinds(packaged)


def test_an_older_kubernetes_than_was_validated_is_refused(helm: Helm) -> None:
    with pytest.raises(Refused, match="kubeVersion"):
        helm.render("1.26")


# What the pods may and have


@pytest.mark.parametrize("name", ["fleet-vee-ner", "fleet-vee-ner-redis"])
def test_no_container_has_rights(everything: list[Manifest], name: str) -> None:
    specification = pod(everything, name)
    assert specification["automountServiceAccountToken"] is False and specification["enableServiceLinks"] is False
    context = specification["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] > 0 and context["runAsGroup"] > 0 and context["fsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in specification["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"limits", "requests"} <= container["resources"].keys() and container["resources"]["limits"]["memory"]


def test_the_user_and_the_folders_are_those_of_the_image(defaults: list[Manifest]) -> None:
    dockerfile = (PROJECT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    specification = pod(defaults)
    assert (
        f"USER {specification['securityContext']['runAsUser']}:{specification['securityContext']['runAsGroup']}"
        in dockerfile
    )
    [container] = specification["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in specification["volumes"]}
    for folder in (environment(defaults)["NER_STATE_DIR"], "/tmp"):
        assert "emptyDir" in volumes[mounted[folder]] and folder in dockerfile
    assert set(mounted.values()) == volumes.keys()


def test_probes_ask_the_port_for_health(defaults: list[Manifest]) -> None:
    [container] = pod(defaults)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    names = environment(defaults)
    assert ports == {"http": int(names["NER_PORT"]), "health": int(names["NER_HEALTH_PORT"])}
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    ready, alive = {"path": "/readyz", "port": "health"}, {"path": "/livez", "port": "health"}
    assert asked == {"startup": ready, "readiness": ready, "liveness": alive}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120  # as the image's own health check waits


@pytest.mark.parametrize(("drain_s", "timeout_ms", "least_s"), [(10, 10_000, 20), (30, 1_500, 32), (0, 60_000, 60)])
def test_the_grace_period_is_longer_than_drain_and_time_limit_together(
    helm: Helm, drain_s: int, timeout_ms: int, least_s: int
) -> None:
    manifests = helm.render(drainSeconds=drain_s, timeoutMs=timeout_ms)
    names = environment(manifests)
    assert (names["NER_DRAIN_S"], names["NER_TIMEOUT_MS"]) == (str(drain_s), str(timeout_ms))
    assert least_s < pod(manifests)["terminationGracePeriodSeconds"] <= least_s + 10


def test_a_replica_is_noticed_to_drain_before_it_stops_answering(defaults: list[Manifest]) -> None:
    [container] = pod(defaults)["containers"]
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < int(environment(defaults)["NER_DRAIN_S"])


def test_threads_follow_the_limit_or_else_the_request_of_cpu(helm: Helm, defaults: list[Manifest]) -> None:
    assert "NER_THREADS" not in environment(defaults)  # the service reads the cgroup's quota
    unlimited: dict[str, Any] = {"limits": {"cpu": None}, "requests": {"cpu": 4}}
    asked = environment(helm.render(resources=unlimited))["NER_THREADS"]
    assert asked == {"resourceFieldRef": {"containerName": "ner", "resource": "requests.cpu"}}
    assert environment(helm.render(resources=unlimited, settings={"NER_THREADS": 3}))["NER_THREADS"] == "3"


def test_settings_reach_the_service_as_they_are_written(everything: list[Manifest]) -> None:
    names = environment(everything)
    given = [names[name] for name in ("NER_CACHE_BYTES", "NER_SHADOW_FRACTION", "NER_ACCESS_LOG")]
    assert given == ["64000000", "0.02", "true"]
    read = Settings(**{name.removeprefix("NER_").lower(): value for name, value in names.items()})
    assert (read.cache_bytes, read.access_log, read.drain_s) == (64_000_000, True, 10.0)


def test_the_service_answers_to_its_names(everything: list[Manifest]) -> None:
    names = environment(everything)["NER_ALLOWED_HOSTS"].split(",")
    service = "fleet-vee-ner"
    inside = [
        service,
        f"{service}.{NAMESPACE}",
        f"{service}.{NAMESPACE}.svc",
        f"{service}.{NAMESPACE}.svc.cluster.local",
    ]
    assert names == [*inside, "ner.example.org"]


# Model and image


def test_the_model_is_the_image_s_or_comes_from_a_volume(defaults: list[Manifest], everything: list[Manifest]) -> None:
    assert environment(defaults)["NER_MODEL"] == "general-minilm-research"
    assert not any(volume["name"] == "models" for volume in pod(defaults)["volumes"])
    assert environment(everything)["NER_MODEL"] == "/models/mine"
    [container] = pod(everything)["containers"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in pod(everything)["volumes"]


def test_the_image_is_named_by_tag_or_by_digest(helm: Helm, defaults: list[Manifest]) -> None:
    assert pod(defaults)["containers"][0]["image"] == "vee-ner:cpu"
    specification = pod(helm.render(**OF_YOURS))
    assert specification["containers"][0]["image"] == f"registry.example.org/ner@sha256:{'0' * 64}"
    assert specification["imagePullSecrets"] == [{"name": "pull"}]


# Replicas and what they share


def test_there_are_as_many_replicas_as_wanted_and_none_less_while_they_are_replaced(helm: Helm) -> None:
    deployment = of_kind(helm.render(replicas=5), "Deployment")["spec"]
    assert deployment["replicas"] == 5
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_selectors_tell_replicas_from_redis(defaults: list[Manifest]) -> None:
    for name in ("fleet-vee-ner", "fleet-vee-ner-redis"):
        deployment, service = of_kind(defaults, "Deployment", name), of_kind(defaults, "Service", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        selected = deployment["spec"]["selector"]["matchLabels"]
        assert selected == service["spec"]["selector"] and selected.items() <= labels
        other = of_kind(defaults, "Deployment", {"fleet-vee-ner": "fleet-vee-ner-redis"}.get(name, "fleet-vee-ner"))
        assert not selected.items() <= other["spec"]["template"]["metadata"]["labels"].items()


def test_replicas_find_the_chart_s_redis_with_its_password(defaults: list[Manifest]) -> None:
    secret = of_kind(defaults, "Secret", "fleet-vee-ner-redis")["stringData"]
    assert re.fullmatch(r"\w{40}", secret["password"])
    assert secret["url"] == f"redis://:{secret['password']}@fleet-vee-ner-redis:6379/0"
    assert f"requirepass {secret['password']}\n" in secret["redis.conf"]
    assert of_kind(defaults, "Service", "fleet-vee-ner-redis")["spec"]["ports"][0]["port"] == 6379
    assert mounted(defaults, environment(defaults)["NER_POLICY_STORE_FILE"]) == ("fleet-vee-ner-redis", "url")
    [redis] = pod(defaults, "fleet-vee-ner-redis")["containers"]
    assert redis["command"] == ["redis-server", "/etc/redis/redis.conf"]
    assert mounted(defaults, "/etc/redis/redis.conf", "fleet-vee-ner-redis") == ("fleet-vee-ner-redis", "redis.conf")


def mounted(manifests: list[Manifest], path: str, name: str = "fleet-vee-ner") -> tuple[str, str]:
    """Which secret, and which key of it, a file in a container is."""
    specification = pod(manifests, name)
    folder, _, file = path.rpartition("/")
    [volume] = [
        mount["name"] for mount in specification["containers"][0]["volumeMounts"] if mount["mountPath"] == folder
    ]
    [secret] = [one["secret"] for one in specification["volumes"] if one["name"] == volume]
    return secret["secretName"], next(item["key"] for item in secret["items"] if item["path"] == file)


@needs_redis
def test_the_chart_s_redis_starts_and_lets_nobody_in_without_the_password(
    defaults: list[Manifest], tmp_path: Path
) -> None:
    secret = of_kind(defaults, "Secret", "fleet-vee-ner-redis")["stringData"]
    (tmp_path / "redis.conf").write_text(secret["redis.conf"], encoding="utf-8")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    process = subprocess.Popen(["redis-server", str(tmp_path / "redis.conf"), *options], stdout=subprocess.DEVNULL)
    try:
        with Redis(port=port) as stranger, Redis(port=port, password=secret["password"]) as replica:
            wait_until(lambda: refusal(replica) != "ConnectionError")
            assert (refusal(replica), refusal(stranger)) == ("", "AuthenticationError")
    finally:
        process.terminate()
        process.wait()


def refusal(client: Redis) -> str:
    """With which error a ping ends, if it does."""
    try:
        client.ping()
    except RedisError as error:
        return type(error).__name__
    return ""


def test_redis_of_yours_takes_the_place_of_the_chart_s(helm: Helm) -> None:
    manifests = helm.render(**OF_YOURS)
    assert not [one for one in kinds(manifests) if "redis" in one[1]]
    assert mounted(manifests, environment(manifests)["NER_POLICY_STORE_FILE"]) == ("redis", "address")
    egress = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for rule in egress for port in rule["ports"]] == [53, 53, 6380]


def test_one_replica_may_keep_its_policy_itself(helm: Helm) -> None:
    manifests = helm.render(**ALONE)
    assert "NER_POLICY_STORE_FILE" not in environment(manifests)
    assert of_kind(manifests, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    [claim] = [one["persistentVolumeClaim"] for one in pod(manifests)["volumes"] if one["name"] == "state"]
    assert of_kind(manifests, "PersistentVolumeClaim", claim["claimName"])["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_keys_are_made_or_given_or_those_of_a_secret(helm: Helm, defaults: list[Manifest]) -> None:
    made = of_kind(defaults, "Secret", "fleet-vee-ner-keys")["stringData"]
    assert made.keys() == {"admin-key"} and re.fullmatch(r"\w{40}", made["admin-key"])
    assert mounted(defaults, environment(defaults)["NER_ADMIN_KEY_FILE"]) == ("fleet-vee-ner-keys", "admin-key")
    assert "NER_API_KEY_FILE" not in environment(defaults)
    given = helm.render(keys={"admin": "the-admin-key", "api": "the-api-key"})
    secret = of_kind(given, "Secret", "fleet-vee-ner-keys")["stringData"]
    assert secret == {"admin-key": "the-admin-key", "api-key": "the-api-key"}
    assert mounted(given, environment(given)["NER_API_KEY_FILE"]) == ("fleet-vee-ner-keys", "api-key")
    yours = helm.render(**OF_YOURS)
    assert "Secret" not in {kind for kind, _ in kinds(yours)}
    found = [mounted(yours, environment(yours)[f"NER_{name}_KEY_FILE"]) for name in ("ADMIN", "API")]
    assert found == [("keys", "admin-key"), ("keys", "api-key")]


def test_no_secret_stands_anywhere_but_in_secrets(helm: Helm) -> None:
    manifests = helm.render(**EVERYTHING, keys={"admin": "the-admin-key", "api": "the-api-key"})
    password = of_kind(manifests, "Secret", "fleet-vee-ner-redis")["stringData"]["password"]
    others = yaml.safe_dump([one for one in manifests if one["kind"] != "Secret"])
    assert [secret for secret in ("the-admin-key", "the-api-key", password) if secret in others] == []


# Disruptions, networks, load


def test_a_drained_node_takes_one_replica_at_a_time(defaults: list[Manifest]) -> None:
    budget = of_kind(defaults, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == of_kind(defaults, "Deployment")["spec"]["selector"]
    [spread] = pod(defaults)["topologySpreadConstraints"]
    assert spread["labelSelector"] == budget["selector"]


def test_only_replicas_reach_redis_and_it_reaches_nobody(defaults: list[Manifest]) -> None:
    policy = of_kind(defaults, "NetworkPolicy", "fleet-vee-ner-redis")["spec"]
    replicas = of_kind(defaults, "Deployment")["spec"]["selector"]
    assert policy["ingress"] == [{"ports": [{"port": "redis", "protocol": "TCP"}], "from": [{"podSelector": replicas}]}]
    assert policy["egress"] == [] and set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_replicas_reach_names_and_redis_alone_and_who_may_scrape_is_named(everything: list[Manifest]) -> None:
    policy = of_kind(everything, "NetworkPolicy")["spec"]
    [names, redis] = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53} and "to" not in names
    assert redis["to"] == [
        {"podSelector": of_kind(everything, "Deployment", "fleet-vee-ner-redis")["spec"]["selector"]}
    ]
    [requests, health] = policy["ingress"]
    assert "from" not in requests and requests["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert health["from"] == EVERYTHING["networkPolicy"]["monitoring"]


def test_what_needs_no_key_is_not_published(everything: list[Manifest]) -> None:
    assert [port["name"] for port in of_kind(everything, "Service")["spec"]["ports"]] == ["http"]
    [rule] = of_kind(everything, "Ingress")["spec"]["rules"]
    paths = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
    assert paths.pop("/") == "Exact" and set(paths.values()) == {"Prefix"}
    assert not paths.keys() & {"/metrics", "/livez", "/readyz", "/health"}


def test_the_scaled_object_follows_the_recorded_rule(everything: list[Manifest]) -> None:
    scaled = of_kind(everything, "ScaledObject")["spec"]
    assert "replicas" not in of_kind(everything, "Deployment")["spec"]  # else every upgrade would undo the scaling
    assert scaled["scaleTargetRef"]["name"] == "fleet-vee-ner"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 10)
    [trigger] = scaled["triggers"]
    found = re.fullmatch(r'max\(([\w:]+)\{namespace="(.+)",service="(.+)"\}\)', trigger["metadata"]["query"])
    assert found is not None
    metric, namespace, service = found.groups()
    assert metric in {rule.get("record") for rule in rules()} and namespace == NAMESPACE
    assert of_kind(everything, "Service", service)["spec"]["ports"][0]["name"] == "health"  # which is scraped
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("Value", "1")
    assert trigger["metadata"]["ignoreNullValues"] == "false"  # no answer must not scale in


# What watches it


def test_nothing_of_monitoring_is_made_unless_it_is_asked_for(
    defaults: list[Manifest], everything: list[Manifest]
) -> None:
    watching = {"ServiceMonitor", "PrometheusRule", "ConfigMap"}
    assert watching.isdisjoint(kind for kind, _ in kinds(defaults))
    assert watching <= {kind for kind, _ in kinds(everything)}


def test_the_monitor_finds_the_service_for_health_alone_and_names_replicas_as_rules_do(
    everything: list[Manifest],
) -> None:
    monitor = of_kind(everything, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [one for one in everything if one["kind"] == "Service"]
    [found] = [one for one in services if wanted <= one["metadata"]["labels"].items()]
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] in [port["name"] for port in found["spec"]["ports"]] and endpoint["path"] == "/metrics"
    set_labels = {one["targetLabel"]: one.get("replacement") for one in endpoint["relabelings"]}
    assert set_labels == {"job": "ner", "instance": None}
    jobs = {job for rule in rules() for job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert jobs == {"ner"}


def test_rules_are_those_of_the_composition(everything: list[Manifest]) -> None:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    assert of_kind(everything, "PrometheusRule")["spec"]["groups"] == groups
    files = of_kind(everything, "ConfigMap", "fleet-vee-ner-rules")["data"]
    written = {f"ner-{path.name}": yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES}
    assert {name: yaml.safe_load(text) for name, text in files.items()} == written


def test_dashboards_are_those_of_the_composition(everything: list[Manifest]) -> None:
    for path in DASHBOARDS:
        found = of_kind(everything, "ConfigMap", f"fleet-vee-ner-dashboard-{path.stem}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert [text.strip() for text in found["data"].values()] == [path.read_text(encoding="utf-8").strip()]


# Values that cannot work


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"redis": {"enabled": False}}, "more than one replica without a policy store"),
        ({"replicas": 1, "redis": {"enabled": False}, "autoscaling": {"enabled": True}}, "without a policy store"),
        ({"policyStore": {"existingSecret": "redis"}}, "two stores of one policy"),
        ({"persistence": {"enabled": True}}, "persistence.enabled is for one replica"),
        ({"keys": {"existingSecret": "keys", "admin": "key"}}, "name the secret or the keys"),
        ({"keys": {"requireApiKey": True}}, "set keys.api instead"),
        ({"ingress": {"enabled": True}}, "name at least one host"),
        ({"autoscaling": {"enabled": True}}, "needs the recorded series"),
        ({"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3, "query": "1"}}, "more than"),
        ({"replica": 2}, "replica"),
        ({"settings": {"NER_THREDS": 2}}, "NER_THREDS"),
        ({"settings": {"NER_PORT": 80}}, "NER_PORT"),
        ({"image": {"digest": "latest"}}, "digest"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: Helm, values: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        helm.render(**values)
