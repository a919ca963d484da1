"""What a SPIFFE id must look like, and mistakes in the settings of TLS."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.tls import PublicTlsConfig, Trust, mesh_tls, public_tls

HERE = "spiffe://sluice.local"


@pytest.mark.parametrize(
    ("uris", "service"),
    [
        ([f"{HERE}/gateway"], "gateway"),
        ([f"{HERE}/my-openai.2"], "my-openai.2"),
        ([], None),
        ([f"{HERE}/gateway", f"{HERE}/retrieval"], None),
        ([f"{HERE}/gateway", "https://example.com"], None),
        ([HERE], None),
        ([f"{HERE}/"], None),
        ([f"{HERE}/.."], None),
        ([f"{HERE}/gateway/"], None),
        ([f"{HERE}/ns/default/sa/gateway"], None),
        ([f"{HERE}/gateway?x=1"], None),
        ([f"{HERE}/gateway#x"], None),
        ([f"{HERE}/gate%77ay"], None),
        ([f"{HERE}/gateway\n"], None),
        ([f"{HERE}/gätewäy"], None),
        (["spiffe://sluice.local.example/gateway"], None),
        (["spiffe://SLUICE.local/gateway"], None),
        (["spiffe://sluice.local:443/gateway"], None),
        (["https://sluice.local/gateway"], None),
    ],
)
def test_a_certificate_names_one_service_of_the_trust_domain(uris: list[str], service: str | None) -> None:
    assert Trust("sluice.local").service_of([uri.encode() for uri in uris]) == service


def test_with_a_namespace_no_other_form_is_believed() -> None:
    trust = Trust("prod.example", "sluice")
    assert trust.service_of([b"spiffe://prod.example/ns/sluice/sa/gateway"]) == "gateway"
    assert trust.id_of("gateway") == "spiffe://prod.example/ns/sluice/sa/gateway"
    assert trust.dns_name("gateway") == "gateway.prod.example"
    for other in (b"spiffe://prod.example/gateway", b"spiffe://prod.example/ns/other/sa/gateway"):
        assert trust.service_of([other]) is None


def refused(tls: Mapping[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mesh_tls(ConfigDocument(None, {"tls": tls}))


def test_mistakes_are_named_by_their_setting(tmp_path: Path) -> None:
    assert mesh_tls(ConfigDocument(None, {})) is None
    assert mesh_tls(ConfigDocument(None, {"tls": {"reload_seconds": 5}})) is None
    absent = str(tmp_path / "absent")
    files = {"certificate": absent, "key": absent, "ca": absent}
    refused({"certificate": absent}, r"tls\.key: required beside the other files")
    refused({"certificate": absent, "key": absent}, r"tls\.ca: required")
    refused(files, r"tls\.certificate: .*absent: No such file")
    refused({**files, "trust_domain": "Sluice.Local"}, r"tls\.trust_domain: expected lower-case")
    refused({**files, "namespace": "a/b"}, r"tls\.namespace: expected letters")
    refused({**files, "reload_seconds": 0}, r"tls\.reload_seconds: expected more than 0")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    refused(dict.fromkeys(files, str(nonsense)), r"tls\.certificate: .*holds no certificate in PEM form")
    with pytest.raises(ConfigError, match=r"gateway\.tls\.certificate: .*PEM"):
        public_tls(ConfigDocument(None, {}), PublicTlsConfig(certificate=str(nonsense), key=str(nonsense)))
