"""What the house demands of manifests beyond their schemas: each rule yields what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml

from .images import images
from .manifests import OWN, Manifest, Rendered, component_of, pod_of

Rule = Callable[[Rendered], Iterator[str]]
_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET|_AUTH|__URL)$")
_NO_SECRET: Final = re.compile(r"(?:https?://[^@/]+(?::\d+)?/?|/etc/sluice-mesh/tls\.key)")
"""Values of such variables that are none: addresses without a password, paths of files."""
_MARGIN_SECONDS: Final = 15
"""What an end takes beside waiting: closing what is open."""
_DEFAULT_TOTAL: Final = 900
"""gateway.limits.total_seconds where the file does not say; test_settings.py compares it with the type."""


def name(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def containers(workload: Manifest) -> list[Mapping[str, Any]]:
    pod = pod_of(workload)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def restricted(found: Rendered) -> Iterator[str]:
    """Pod Security's `restricted`, and a file system that cannot be written to."""
    (namespace,) = found.of("Namespace")
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce it"
    for one in found.workloads():
        pod, security = pod_of(one), pod_of(one).get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{name(one)}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name(one)}: no seccomp profile"
        if pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}:
            yield f"{name(one)}: shares what is the node's"
        if any("hostPath" in volume for volume in pod.get("volumes", ())):
            yield f"{name(one)}: mounts the node's files"
        for container in containers(one):
            mine = container.get("securityContext", {})
            wanted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if mine != wanted:
                yield f"{name(one)}: {container['name']}: securityContext is {mine}"


def no_token(found: Rendered) -> Iterator[str]:
    """Nothing here talks to the API server, and every workload is someone of its own."""
    accounts = {one["metadata"]["name"]: one for one in found.of("ServiceAccount")}
    for one in found.workloads():
        pod = pod_of(one)
        if pod.get("serviceAccountName") != one["metadata"]["name"] or pod["serviceAccountName"] not in accounts:
            yield f"{name(one)}: has no ServiceAccount of its own"
        elif accounts[pod["serviceAccountName"]].get("automountServiceAccountToken") is not False:
            yield f"{name(one)}: its ServiceAccount mounts a token"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name(one)}: mounts a token"
        if pod.get("enableServiceLinks") is not False:
            yield f"{name(one)}: gets variables of other services"


def probed(found: Rendered) -> Iterator[str]:
    """Liveness and readiness everywhere; by gRPC on the probe's port where it is our own."""
    for one in found.workloads():
        (container,) = pod_of(one)["containers"]
        if component_of(one) not in OWN:
            if not container.keys() >= {"livenessProbe", "readinessProbe"}:
                yield f"{name(one)}: no probes"
            continue
        wanted = {"startupProbe": "liveness", "livenessProbe": "liveness", "readinessProbe": "readiness"}
        for probe, service in wanted.items():
            if container.get(probe, {}).get("grpc") != {"port": 7401, "service": service}:
                yield f"{name(one)}: {probe} does not ask for {service}"


def bounded(found: Rendered) -> Iterator[str]:
    """Requests and limits, and a size for what is written to the node."""
    for one in found.workloads():
        for container in containers(one):
            for kind in ("requests", "limits"):
                if container.get("resources", {}).get(kind, {}).keys() != {"cpu", "memory"}:
                    yield f"{name(one)}: {container['name']}: no {kind}"
        for volume in pod_of(one).get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name(one)}: {volume['name']} may grow without end"


def pinned(found: Rendered) -> Iterator[str]:
    """No image without a version, and none of ours that is not built here."""
    for one in found.workloads():
        for container in containers(one):
            image, _, tag = str(container["image"]).partition("@")[0].rpartition(":")
            if not image or "/" in tag or not re.search(r"\d+\.\d+", tag):
                yield f"{name(one)}: {container['image']} names no version"
            repository, _, ours = image.rpartition("/")
            if component_of(one) in OWN and (not repository.endswith("sluice") or ours not in images()):
                yield f"{name(one)}: {container['image']} is not built by deploy/docker"


def secret_free(found: Rendered) -> Iterator[str]:
    """Secrets are referred to, never written down."""
    for one in found.of("Secret"):
        yield f"{name(one)}: a secret in a manifest"
    for one in found.workloads():
        for container in containers(one):
            for variable in container.get("env", ()):
                value = variable.get("value")
                if value is not None and _SECRET_NAME.search(variable["name"]) and not _NO_SECRET.fullmatch(value):
                    yield f"{name(one)}: {variable['name']} is written down"
    for one in found.of("ConfigMap"):
        for file, text in one.get("data", {}).items():
            if re.search(
                r"(?i)(api_?key|token|password|secret)\w*:\s*(?!\$\{)[^\s#]|://[^\s/@]+:[^\s/@]+@|\bsk-", text
            ):
                yield f"{name(one)}: {file} holds what looks like a secret"


def private(found: Rendered) -> Iterator[str]:
    """Nothing is public but the gateway, and that by its one port."""
    for one in found.of("Ingress", "HTTPRoute", "TCPRoute", "TLSRoute"):
        yield f"{name(one)}: another way in"
    for one in found.of("Service"):
        spec = one["spec"]
        if spec.get("type", "ClusterIP") != "ClusterIP" or spec.get("externalIPs"):
            yield f"{name(one)}: reachable from outside"
    for one in found.workloads():
        if any("hostPort" in port for container in containers(one) for port in container.get("ports", ())):
            yield f"{name(one)}: takes a port of the node"
    for one in found.of("GRPCRoute"):
        for rule in one["spec"]["rules"]:
            if [(back["name"], back["port"]) for back in rule["backendRefs"]] != [("gateway", 7400)]:
                yield f"{name(one)}: leads elsewhere"
    for one in found.of("Gateway"):
        for listener in one["spec"]["listeners"]:
            if listener["protocol"] != "HTTPS" or listener["tls"]["mode"] != "Terminate":
                yield f"{name(one)}: listens without TLS"
    for one in found.of("NetworkPolicy"):
        for rule in one["spec"].get("ingress", ()):
            outside = "from" not in rule or any("podSelector" not in peer for peer in rule["from"])
            ports = [port.get("port") for port in rule.get("ports", ())]
            if outside and (one["metadata"]["name"] != "gateway" or ports != [7400]):
                yield f"{name(one)}: lets strangers in at {ports or 'every port'}"


def denied_by_default(found: Rendered) -> Iterator[str]:
    """A policy that denies everything, and one of its own for every workload."""
    policies = {one["metadata"]["name"]: one["spec"] for one in found.of("NetworkPolicy")}
    if policies.get("default-deny") != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "there is no default-deny"
    for one in found.workloads():
        mine = policies.get(one["metadata"]["name"], {})
        selected = mine.get("podSelector", {}).get("matchLabels")
        if selected != {"app.kubernetes.io/name": one["metadata"]["name"]}:
            yield f"{name(one)}: no policy of its own"


def patient(found: Rendered) -> Iterator[str]:
    """The grace is longer than the longest stream: preStop, then the drain, which outlasts every answer, then the end."""
    settings = yaml.safe_load(found.settings())
    drain = settings.get("server", {}).get("drain_seconds", 30)
    gateway = settings["gateway"]
    limits = [gateway.get("limits", {}), *gateway.get("routes", {}).values()]
    longest = max(one.get("total_seconds", _DEFAULT_TOTAL) for one in limits)
    if drain <= longest:
        yield f"server.drain_seconds {drain} ends answers that may take {longest} s"
    for one in found.workloads(*OWN):
        (container,) = pod_of(one)["containers"]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep < 5:
            yield f"{name(one)}: no preStop sleep"
        if pod_of(one).get("terminationGracePeriodSeconds", 30) < sleep + drain + _MARGIN_SECONDS:
            yield f"{name(one)}: is killed before it has drained"


def available(found: Rendered) -> Iterator[str]:
    """A budget for what runs more than once, that still lets nodes be drained; and pods apart from each other."""
    budgets = {one["metadata"]["name"]: one["spec"] for one in found.of("PodDisruptionBudget")}
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in found.of("HorizontalPodAutoscaler")}
    for one in found.workloads():
        own = {"matchLabels": {"app.kubernetes.io/name": one["metadata"]["name"]}}
        autoscaled = one["kind"] == "Deployment" and one["metadata"]["name"] in scaled
        if autoscaled == ("replicas" in one["spec"]):
            yield f"{name(one)}: how many of it there are has no one answer"
        budget = budgets.get(one["metadata"]["name"])
        # Of what keeps data a node that is not ready may be catching up, so such are not evicted.
        evicted = {"unhealthyPodEvictionPolicy": "AlwaysAllow"} if component_of(one) in OWN else {}
        if budget != {"maxUnavailable": 1, "selector": own, **evicted}:
            yield f"{name(one)}: no budget for disruptions"
        spread = pod_of(one).get("topologySpreadConstraints", ())
        if {(rule["topologyKey"], str(rule["labelSelector"])) for rule in spread} != {
            ("topology.kubernetes.io/zone", str(own)),
            ("kubernetes.io/hostname", str(own)),
        }:
            yield f"{name(one)}: may end up on one node"
        volumes = pod_of(one).get("volumes", ())
        if any("persistentVolumeClaim" in volume for volume in volumes) and (
            autoscaled or one["spec"].get("replicas") != 1 or one["spec"]["strategy"] != {"type": "Recreate"}
        ):
            yield f"{name(one)}: two pods would want one volume"


def streaming(found: Rendered) -> Iterator[str]:
    """The way in has room for as many streams as the gateways are scaled to, and ends none by the clock."""
    doors = {one["metadata"]["name"] for one in found.of("Gateway")}
    per_pod, pods = 0, 1
    for scaler in found.of("HorizontalPodAutoscaler"):
        if scaler["metadata"]["name"] == "gateway":
            pods = scaler["spec"]["maxReplicas"]
            per_pod = int(scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"])
    rooms = [one["spec"] for one in found.of("ClientTrafficPolicy") if one["spec"]["targetRefs"][0]["name"] in doors]
    ways = [one["spec"] for one in found.of("BackendTrafficPolicy")]
    if doors and (len(rooms) != 1 or rooms[0]["http2"]["maxConcurrentStreams"] <= per_pod):
        yield "a connection has room for fewer streams than a gateway has"
    if doors and (len(ways) != 1 or ways[0]["circuitBreaker"]["maxParallelRequests"] <= per_pod * pods):
        yield "the way in has room for fewer streams than the gateways have"
    if doors and any(one["timeout"]["http"]["requestTimeout"] != "0s" for one in ways):
        yield "the way in ends streams by the clock"


def renewable(found: Rendered) -> Iterator[str]:
    """Services get a new key with each certificate; the CA keeps its own, or half of the mesh would refuse the other."""
    for one in found.of("Certificate"):
        policy = one["spec"]["privateKey"].get("rotationPolicy")
        if policy != ("Never" if one["spec"].get("isCA") else "Always"):
            yield f"{name(one)}: rotationPolicy is {policy}"


def resolvable(found: Rendered) -> Iterator[str]:
    """What the configuration and the workloads name is there."""
    services = {one["metadata"]["name"]: one["spec"] for one in found.of("Service")}
    gateway = yaml.safe_load(found.settings())["gateway"]
    addresses = [peer["address"] for peer in gateway["integrations"].values()] + [gateway["retrieval"]["address"]]
    for one in found.workloads(*OWN):
        addresses += [v["value"] for c in containers(one) for v in c["env"] if v.get("value", "").startswith("dns:///")]
    for address in addresses:
        host, _, port = str(address).removeprefix("dns:///").partition(":")
        spec = services.get(host, {})
        if spec.get("clusterIP") != "None" or int(port) not in [one["port"] for one in spec.get("ports", ())]:
            yield f"{address} leads to no headless Service"
    config_maps = {one["metadata"]["name"] for one in found.of("ConfigMap")}
    claims = {one["metadata"]["name"] for one in found.of("PersistentVolumeClaim")}
    secrets = {one["spec"]["secretName"] for one in found.of("Certificate")}
    for one in found.workloads():
        kept = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"]: volume for volume in pod_of(one).get("volumes", ())}
        for container in containers(one):
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes.keys() | kept:
                    yield f"{name(one)}: {mount['name']} is no volume"
        for volume in volumes.values():
            if volume.get("configMap", {}).get("name", "") not in config_maps | {""}:
                yield f"{name(one)}: {volume['name']} is no ConfigMap"
            if volume.get("persistentVolumeClaim", {}).get("claimName", "") not in claims | {""}:
                yield f"{name(one)}: {volume['name']} is no claim"
            secret = volume.get("secret", {})
            if secret and not secret.get("optional") and secret["secretName"] not in secrets:
                yield f"{name(one)}: nobody makes the Secret {secret['secretName']}"


RULES: Final[tuple[Rule, ...]] = (
    restricted,
    no_token,
    probed,
    bounded,
    pinned,
    secret_free,
    private,
    denied_by_default,
    patient,
    available,
    streaming,
    renewable,
    resolvable,
)


def violations(found: Rendered) -> list[str]:
    """Returns everything that breaks a rule."""
    return [f"{rule.__name__}: {wrong}" for rule in RULES for wrong in rule(found)]
