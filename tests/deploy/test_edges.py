"""Who may talk to whom, by the NetworkPolicies of each overlay together: exactly this, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .manifests import Rendered, overlay

Edge = tuple[str, str, int]
WORLD, ENVOY, MONITORING = "the internet", "namespace envoy-gateway-system", "namespace monitoring"

LAPTOP: set[Edge] = {
    ("gateway", "extractive", 7411),
    ("gateway", "retrieval", 7410),
    ("retrieval", WORLD, 443),
}
_VENDORS = ("anthropic", "bedrock", "google", "openai")
_ADAPTERS = (*_VENDORS, "extractive")
PRODUCTION: set[Edge] = {
    (ENVOY, "gateway", 7400),
    *(("gateway", adapter, 7411) for adapter in _ADAPTERS),
    *((vendor, WORLD, 443) for vendor in _VENDORS),
    ("gateway", "retrieval", 7410),
    ("retrieval", "gateway", 7402),
    ("retrieval", WORLD, 443),
    ("gateway", "redis", 6379),
    ("gateway", "postgres", 5432),
    ("retrieval", "postgres", 5432),
    ("retrieval", "qdrant", 6333),
    ("retrieval", "qdrant", 6334),
    ("qdrant", "qdrant", 6335),
    *((MONITORING, service, 9464) for service in ("gateway", "retrieval", *_ADAPTERS)),
    *((service, MONITORING, 4317) for service in ("gateway", "retrieval", *_ADAPTERS)),
}


def chosen(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    rules = selector.get("matchExpressions", ())
    assert all(rule["operator"] == "In" for rule in rules)
    return exact and all(labels.get(rule["key"]) in rule["values"] for rule in rules)


def others(peer: Mapping[str, Any], pods: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Whom a peer of a rule means."""
    if "ipBlock" in peer:
        inside = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
        if peer["ipBlock"]["cidr"] == "0.0.0.0/0":
            assert set(peer["ipBlock"]["except"]) == inside, "the way out leads into the cluster, too"
        return [WORLD]
    if "namespaceSelector" in peer:
        (namespace,) = peer["namespaceSelector"]["matchLabels"].values()
        return [] if namespace == "kube-system" else [f"namespace {namespace}"]
    return [name for name, labels in pods.items() if chosen(peer["podSelector"], labels)]


def rules(found: Rendered, direction: str, key: str) -> Iterator[tuple[str, str, int]]:
    """Yields (pod, other, port) for one direction."""
    pods = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in found.workloads()}
    for policy in found.of("NetworkPolicy"):
        for name, labels in pods.items():
            if not chosen(policy["spec"]["podSelector"], labels):
                continue
            for rule in policy["spec"].get(direction, ()):
                ends = [end for peer in rule[key] for end in others(peer, pods)] if key in rule else ["anyone"]
                for end in ends:
                    for port in rule["ports"]:
                        yield name, end, port["port"]


def edges(found: Rendered) -> set[Edge]:
    """What is allowed at both ends, as far as both are pods here."""
    out = {(name, other, port) for name, other, port in rules(found, "egress", "to") if port != 53}
    into = {(other, name, port) for name, other, port in rules(found, "ingress", "from")}
    own = {one["metadata"]["name"] for one in found.workloads()}
    half = {edge for edge in out ^ into if edge[0] in own and edge[1] in own}
    assert not half, f"allowed at one end alone: {half}"
    return (out & into) | {edge for edge in out | into if not {edge[0], edge[1]} <= own}


@pytest.mark.parametrize(("name", "wanted"), [("laptop", LAPTOP), ("production", PRODUCTION)])
def test_exactly_these_ways_are_open(name: str, wanted: set[Edge]) -> None:
    assert edges(overlay(name)) == wanted


def test_a_way_that_is_open_at_one_end_alone_is_found() -> None:
    found = overlay("laptop")
    without = tuple(one for one in found.manifests if one["metadata"]["name"] != "retrieval")
    workload = found.one("StatefulSet", "retrieval")
    with pytest.raises(AssertionError, match="one end alone"):
        edges(Rendered("x", (*without, workload)))


def test_everyone_may_ask_for_names_and_nothing_more_of_the_cluster() -> None:
    for found in (overlay("laptop"), overlay("production")):
        (dns,) = (one["spec"] for one in found.of("NetworkPolicy") if one["metadata"]["name"] == "dns")
        assert dns["podSelector"] == {}
        assert {port["port"] for rule in dns["egress"] for port in rule["ports"]} == {53}
        blocks = [peer["ipBlock"]["cidr"] for rule in dns["egress"] for peer in rule["to"] if "ipBlock" in peer]
        assert blocks == ["169.254.20.10/32"], "where NodeLocal DNSCache listens, and nowhere else"
