"""The configuration: where values come from, and what a mistake is told as."""

from pathlib import Path

import msgspec
import pytest

from sluice_kit.config import AuthConfig, ConfigDocument, ConfigError, check_listeners, is_private_address, load
from sluice_kit.secrets import Secret


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: int = 1
    names: tuple[str, ...] = ()


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:1"
    inner: Inner = Inner()
    named: dict[str, Inner] = {}
    tables: list[dict[str, dict[str, int]]] = []
    ratio: float = 0.5
    key: Secret = Secret(None, "EXAMPLE_KEY")


def read(tmp_path: Path, text: str, *overrides: str, **environ: str) -> ConfigDocument:
    path = tmp_path / "sluice.yaml"
    path.write_text(text)
    return load(path, overrides, environ)


def test_defaults_need_no_file() -> None:
    assert load(None, environ={}).section("gateway", Example) == Example()


def test_later_sources_win(tmp_path: Path) -> None:
    text = "gateway:\n  listen: from-file\n  inner: {port: 2}\n"
    assert read(tmp_path, text).section("gateway", Example).listen == "from-file"
    with_env = read(tmp_path, text, SLUICE_GATEWAY__LISTEN="from-env", SLUICE_GATEWAY__INNER__PORT="3")
    assert with_env.section("gateway", Example).listen == "from-env"
    assert with_env.section("gateway", Example).inner.port == 3
    with_set = read(tmp_path, text, "gateway.listen=from-set", SLUICE_GATEWAY__LISTEN="from-env")
    assert with_set.section("gateway", Example).listen == "from-set"


def test_placeholders(tmp_path: Path) -> None:
    text = "gateway:\n  listen: ${HOST}:${PORT:-80}\n  inner: {port: '${PORT}'}\n  key: ${KEY}\n"
    section = read(tmp_path, text, HOST="h", PORT="81", KEY="00123").section("gateway", Example)
    assert (section.listen, section.inner.port) == ("h:81", 81)
    assert section.key.reveal() == "00123"  # digits of a key are not a number


def test_a_secret_keeps_its_text_and_never_prints(tmp_path: Path) -> None:
    section = read(tmp_path, "gateway:\n  key: ${KEY}\n", KEY="sk-very-secret").section("gateway", Example)
    assert section.key.reveal() == "sk-very-secret"
    assert "very-secret" not in f"{section} {section.key!r} {section.key}"


def test_a_missing_secret_knows_its_variable(tmp_path: Path) -> None:
    section = read(tmp_path, "gateway:\n  key: ${NOT_SET}\n").section("gateway", Example)
    assert section.key.missing == "NOT_SET"
    assert not section.key
    with pytest.raises(ValueError, match="NOT_SET"):
        section.key.reveal()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("gateway:\n  listem: x\n", 2, ["gateway.listem", "no such setting"]),
        ("gateway:\n  inner:\n    port: many\n", 3, ["gateway.inner.port", "int"]),
        ("gateway:\n  inner:\n    names:\n      - a\n      - 7\n", 5, ["gateway.inner.names.1", "str"]),
        ("gateway:\n  listen: ${NOT_SET}\n", 2, ["gateway.listen", "NOT_SET is not set"]),
        ("gateway:\n  listen: a\n  listen: b\n", 3, ["set twice"]),
        ("gateway:\n  named:\n    a: {port: 1}\n    b.c/d:\n      port: x\n", 5, ["gateway.named.b.c/d.port", "int"]),
        ("gateway:\n  named:\n    a: {port: 1}\n    b: {prot: 1}\n", 4, ["gateway.named.b.prot", "no such setting"]),
        ("gateway:\n  named:\n    a.b: {port: '${NOT_SET}'}\n", 3, ["gateway.named.a.b.port", "NOT_SET is not set"]),
        (
            "gateway:\n  tables:\n    - a: {}\n    - b:\n        c: 1\n        d: x\n",
            6,
            ["gateway.tables.1.b.d", "int"],
        ),
        ("\ngatway: {}\n", 2, ["gatway", "no such section", "gateway"]),
        ("gateway:\n  listen: [\n", 3, []),
        ("- a\n", 1, ["map of sections"]),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text).section("gateway", Example)
    assert f"sluice.yaml:{line}:" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.yaml", environ={})
    (tmp_path / "latin.yaml").write_bytes(b"gateway: {listen: \xff}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.yaml", environ={})


def test_an_override_must_name_a_section() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(None, ["nowhere.x=1"], {})
    with pytest.raises(ConfigError, match="expected name=value"):
        load(None, ["gateway.listen"], {})


def test_an_override_may_be_a_structure() -> None:
    document = load(None, ["gateway.inner={port: 5, names: [a, b]}", "gateway.ratio=0.25"], {})
    assert document.section("gateway", Example).inner == Inner(port=5, names=("a", "b"))
    assert document.section("gateway", Example).ratio == 0.25
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load(None, ["gateway.inner={port"], {})


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    document = read(tmp_path, "state_dir: state\n")
    assert document.state_dir() == tmp_path / "state"
    assert document.resolve("/abs") == Path("/abs")


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("unix:/run/x.sock", True),
        ("127.0.0.1:7400", True),
        ("127.9.9.9:0", True),
        ("[::1]:7400", True),
        ("localhost:7400", True),
        ("0.0.0.0:7400", False),
        ("[::]:7400", False),
        ("10.0.0.5:7400", False),
        ("gateway.example:7400", False),
    ],
)
def test_local_mode_listens_only_where_this_machine_reaches(address: str, private: bool) -> None:
    assert is_private_address(address) is private
    document = load(None, environ={})
    check_listeners(document, AuthConfig(mode="insecure"), [("gateway.listen", address)])
    if private:
        check_listeners(document, AuthConfig(), [("gateway.listen", address)])
    else:
        with pytest.raises(ConfigError, match=r"auth\.mode"):
            check_listeners(document, AuthConfig(), [("gateway.listen", address)])


def test_with_certificates_services_may_listen_anywhere_and_the_door_may_not() -> None:
    address = [("retrieval.listen", "0.0.0.0:7500")]
    with pytest.raises(ConfigError, match=r"retrieval\.listen"):
        check_listeners(load(None, environ={}), AuthConfig(), [], address)
    document = load(None, ["tls.certificate=x"], {})
    check_listeners(document, AuthConfig(), [], address)
    with pytest.raises(ConfigError, match=r"retrieval\.listen"):
        check_listeners(document, AuthConfig(), address)


def test_keys_need_a_file() -> None:
    with pytest.raises(ConfigError, match="keys_file"):
        check_listeners(load(None, environ={}), AuthConfig(mode="keys"), [])
