"""Every overlay keeps every rule of policies.py, and each rule can be broken."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from sluice_gateway.config import GatewayConfig
from sluice_kit.config import ServerConfig
from sluice_kit.telemetry import table
from sluice_kit.tls import Trust

from . import policies
from .manifests import COMPONENTS, FOLDER, OVERLAYS, Rendered, combinations, component_of, overlay, read
from .policies import violations

Change = Callable[[dict[str, dict[str, Any]]], object]


@pytest.mark.parametrize("found", OVERLAYS, ids=lambda one: one.name)
def test_an_overlay_keeps_every_rule(found: Rendered) -> None:
    assert violations(found) == []


def test_rules_know_the_defaults_of_settings() -> None:
    assert GatewayConfig().limits.total_seconds == policies._DEFAULT_TOTAL
    assert ServerConfig().drain_seconds == 30


def container(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def pod(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["template"]["spec"]


BREAKS: dict[str, tuple[str, Change]] = {
    "root": ("restricted", lambda m: pod(m["Deployment/openai"])["securityContext"].update(runAsNonRoot=False)),
    "user 0": ("restricted", lambda m: pod(m["Deployment/openai"])["securityContext"].update(runAsUser=0)),
    "seccomp": ("restricted", lambda m: pod(m["StatefulSet/redis"])["securityContext"].pop("seccompProfile")),
    "network": ("restricted", lambda m: pod(m["StatefulSet/redis"]).update(hostNetwork=True)),
    "files": ("restricted", lambda m: pod(m["StatefulSet/redis"])["volumes"].append({"name": "x", "hostPath": {}})),
    "rights": ("restricted", lambda m: container(m["StatefulSet/qdrant"])["securityContext"].pop("capabilities")),
    "namespace": ("restricted", lambda m: m["Namespace/sluice"]["metadata"]["labels"].clear()),
    "token": ("no_token", lambda m: pod(m["Deployment/gateway"]).pop("automountServiceAccountToken")),
    "account": ("no_token", lambda m: pod(m["Deployment/gateway"]).update(serviceAccountName="openai")),
    "account's token": ("no_token", lambda m: m["ServiceAccount/openai"].pop("automountServiceAccountToken")),
    "links": ("no_token", lambda m: pod(m["Deployment/gateway"]).pop("enableServiceLinks")),
    "probe": ("probed", lambda m: container(m["Deployment/gateway"]).pop("livenessProbe")),
    "health": ("probed", lambda m: container(m["Deployment/gateway"])["readinessProbe"]["grpc"].update(service="")),
    "store": ("probed", lambda m: container(m["StatefulSet/redis"]).pop("readinessProbe")),
    "limits": ("bounded", lambda m: container(m["Deployment/openai"])["resources"].pop("limits")),
    "requests": ("bounded", lambda m: container(m["Deployment/openai"])["resources"]["requests"].pop("memory")),
    "room": ("bounded", lambda m: pod(m["StatefulSet/redis"])["volumes"].append({"name": "x", "emptyDir": {}})),
    "latest": ("pinned", lambda m: container(m["StatefulSet/redis"]).update(image="redis:latest")),
    "no tag": ("pinned", lambda m: container(m["StatefulSet/redis"]).update(image="localhost:5000/redis")),
    "not ours": ("pinned", lambda m: container(m["Deployment/openai"]).update(image="sluice/providers-opneai:0.1.0")),
    "secret": ("secret_free", lambda m: m.update({"x": {"kind": "Secret", "metadata": {"name": "x"}}})),
    "literal": (
        "secret_free",
        lambda m: container(m["Deployment/openai"])["env"].append({"name": "OPENAI_API_KEY", "value": "sk-123"}),
    ),
    "address": (
        "secret_free",
        lambda m: container(m["Deployment/openai"])["env"].append({"name": "X__URL", "value": "redis://:p@redis"}),
    ),
    "balancer": ("private", lambda m: m["Service/gateway"]["spec"].update(type="LoadBalancer")),
    "port": ("private", lambda m: container(m["Deployment/openai"])["ports"][0].update(hostPort=7411)),
    "route": ("private", lambda m: m["GRPCRoute/gateway"]["spec"]["rules"][0]["backendRefs"][0].update(port=7401)),
    "plain": ("private", lambda m: m["Gateway/sluice"]["spec"]["listeners"][0].update(protocol="HTTP")),
    "ingress": ("private", lambda m: m.update({"x": {"kind": "Ingress", "metadata": {"name": "x"}}})),
    "open": ("private", lambda m: m["NetworkPolicy/openai"]["spec"]["ingress"][0].pop("from")),
    "open door": ("private", lambda m: m["NetworkPolicy/gateway"]["spec"]["ingress"][0].pop("ports")),
    "allowed": ("denied_by_default", lambda m: m["NetworkPolicy/default-deny"]["spec"].update(egress=[{}])),
    "no policy": ("denied_by_default", lambda m: m["NetworkPolicy/redis"]["spec"].update(podSelector={})),
    "grace": ("patient", lambda m: pod(m["Deployment/openai"]).update(terminationGracePeriodSeconds=600)),
    "no sleep": ("patient", lambda m: container(m["Deployment/gateway"]).pop("lifecycle")),
    "budget": ("available", lambda m: m["PodDisruptionBudget/gateway"]["spec"].update(maxUnavailable=0)),
    "one node": ("available", lambda m: pod(m["Deployment/openai"])["topologySpreadConstraints"].pop()),
    "two numbers": ("available", lambda m: m["Deployment/gateway"]["spec"].update(replicas=2)),
    "one volume": (
        "available",
        lambda m: pod(m["Deployment/gateway"])["volumes"].append(
            {"name": "x", "persistentVolumeClaim": {"claimName": "x"}}
        ),
    ),
    "stuck node": (
        "available",
        lambda m: m["PodDisruptionBudget/openai"]["spec"].pop("unhealthyPodEvictionPolicy"),
    ),
    "streams of a connection": ("streaming", lambda m: m.pop("ClientTrafficPolicy/sluice")),
    "streams of all": (
        "streaming",
        lambda m: m["BackendTrafficPolicy/gateway"]["spec"]["circuitBreaker"].update(maxParallelRequests=1024),
    ),
    "time of a stream": (
        "streaming",
        lambda m: m["BackendTrafficPolicy/gateway"]["spec"]["timeout"]["http"].update(requestTimeout="15s"),
    ),
    "key of the CA": (
        "renewable",
        lambda m: m["Certificate/mesh-ca"]["spec"]["privateKey"].pop("rotationPolicy"),
    ),
    "key of a service": (
        "renewable",
        lambda m: m["Certificate/openai-mesh"]["spec"]["privateKey"].update(rotationPolicy="Never"),
    ),
    "no service": ("resolvable", lambda m: m.pop("Service/openai")),
    "one address": ("resolvable", lambda m: m["Service/retrieval"]["spec"].pop("clusterIP")),
    "no volume": ("resolvable", lambda m: pod(m["Deployment/openai"])["volumes"].pop(1)),
    "no certificate": ("resolvable", lambda m: m.pop("Certificate/openai-mesh")),
    "no config": ("resolvable", lambda m: pod(m["Deployment/openai"])["volumes"][0]["configMap"].update(name="x")),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_rule_finds_what_breaks_it(what: str) -> None:
    rule, change = BREAKS[what]
    found = {policies.name(one): dict(one) for one in copy.deepcopy(overlay("production").manifests)}
    change(found)
    broken = {wrong.partition(":")[0] for wrong in violations(Rendered(what, tuple(found.values())))}
    assert rule in broken


def test_an_answer_longer_than_the_drain_is_found() -> None:
    found = copy.deepcopy(overlay("production").manifests)
    for one in found:
        if one["kind"] == "ConfigMap" and "sluice.yaml" in one["data"]:
            one["data"]["sluice.yaml"] = one["data"]["sluice.yaml"].replace("total_seconds: 900", "total_seconds: 1800")
    assert any(wrong.startswith("patient: server.drain") for wrong in violations(Rendered("x", found)))


@pytest.mark.parametrize("found", OVERLAYS, ids=lambda one: one.name)
def test_certificates_name_their_service(found: Rendered) -> None:
    """What cert-manager is asked for is what the processes believe: see sluice_kit.tls."""
    certificates = {one["metadata"]["name"]: one["spec"] for one in found.of("Certificate")}
    for one in found.workloads("gateway", "adapter", "retrieval"):
        mounted = [v["secret"]["secretName"] for v in pod(dict(one))["volumes"] if v["name"] == "mesh"]
        if not certificates:
            assert not mounted
            continue
        name = one["metadata"]["name"]
        assert mounted == [f"{name}-mesh"]
        spec = certificates[mounted[0]]
        variables = {v["name"]: v.get("value", "sluice") for v in container(dict(one))["env"]}
        trust = Trust(variables["SLUICE_TLS__TRUST_DOMAIN"], one["metadata"]["namespace"])
        assert spec["uris"] == [trust.id_of(name)]
        assert spec["dnsNames"] == [trust.dns_name(name)]
        assert trust.service_of([uri.encode() for uri in spec["uris"]]) == name
        assert "SLUICE_AUTH__MODE" not in variables, "with certificates nothing trusts its network"


def test_nobody_is_told_of_certificates_that_are_renewed_in_time() -> None:
    production = overlay("production")
    rules = [
        rule for one in production.of("PrometheusRule") for group in one["spec"]["groups"] for rule in group["rules"]
    ]
    (alert,) = (rule for rule in rules if rule.get("alert") == "SluiceCertificateEnding")
    share = re.search(r"< ([\d.]+) \* \(sluice_certificate_expiry", alert["expr"])
    assert share is not None
    for one in production.of("Certificate"):
        hours = {key: int(one["spec"][key].removesuffix("h")) for key in ("duration", "renewBefore")}
        renewed = hours["renewBefore"] / hours["duration"]
        assert one["spec"].get("isCA") or renewed > float(share[1]), one["metadata"]["name"]


def test_postgres_has_connections_for_gateways_that_drain_beside_those_that_follow_them() -> None:
    production = overlay("production")
    config = GatewayConfig()
    # Beside the pools: who writes, and who says that the gateway lives.
    each = config.records.connections + config.conversations.connections + 3
    (gateways,) = (
        one["spec"]["maxReplicas"]
        for one in production.of("HorizontalPodAutoscaler")
        if one["metadata"]["name"] == "gateway"
    )
    (arguments,) = (one["args"] for one in policies.containers(production.one("StatefulSet", "postgres")))
    (most,) = (int(one.partition("=")[2]) for one in arguments if one.startswith("max_connections="))
    assert most >= 2 * gateways * each + 50


def test_scaling_looks_at_metrics_that_there_are() -> None:
    production = overlay("production")
    known = {value.name: value for value in vars(table).values() if isinstance(value, table.Metric)}
    groups = production.one("PrometheusRule", "sluice-scaling")["spec"]["groups"]
    recorded = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}
    for one in production.of("HorizontalPodAutoscaler"):
        (metric,) = (rule["pods"]["metric"] for rule in one["spec"]["metrics"])
        assert metric.keys() == {"name"}, "values of a selector are label values of Kubernetes, which hold no slash"
        expression = recorded.get(metric["name"], metric["name"])
        (used,) = (found for name, found in known.items() if re.search(rf"\b{name}\b", expression))
        target = production.one("Deployment", one["spec"]["scaleTargetRef"]["name"])
        assert used.served_by in ("all", component_of(target))
        assert set(re.findall(r"(\w+)=~?\"", expression)) <= set(used.labels)


def test_pods_are_scraped_on_the_port_they_have_under_the_jobs_that_alerts_know() -> None:
    production = overlay("production")
    (endpoint,) = production.one("PodMonitor", "sluice")["spec"]["podMetricsEndpoints"]
    for one in production.workloads("gateway", "adapter", "retrieval"):
        assert endpoint["port"] in [port["name"] for port in container(dict(one))["ports"]]
    (relabel,) = endpoint["relabelings"]
    assert (relabel["targetLabel"], relabel["replacement"]) == ("job", "sluice-$1")
    rules = str(production.one("PrometheusRule", "sluice")["spec"])
    assert 'job=~"sluice.*"' in rules


def test_the_server_of_vectors_is_of_the_clients_version() -> None:
    lock = (FOLDER.parents[1] / "requirements" / "retrieval.lock").read_text(encoding="utf-8")
    (line,) = (line for line in lock.splitlines() if line.startswith("qdrant-client=="))
    minor = line.partition("==")[2].rpartition(".")[0]
    assert f"qdrant/qdrant:v{minor}." in container(dict(overlay("production").one("StatefulSet", "qdrant")))["image"]


def test_every_combination_is_known_by_its_parts() -> None:
    assert () in combinations()
    assert COMPONENTS in combinations()
    assert read("") == []
