"""Templates of prompts: which one a request gets, the operator's own, and what is wrong with one."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, Grounding
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.config import GatewayConfig, PromptsConfig, RouteConfig, RoutePolicy
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.prompts import MAX_TEMPLATE_BYTES, Prompts, Template
from sluice_gateway.pipeline.request import generate_request
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.testing import document_of

LANGUAGES = {"en", "de", "fr", "es", "it", "pt", "nl", "pl"}


def prompts(folder: Path, **gateway: Any) -> Prompts:
    document = document_of({"gateway": gateway}, folder)
    return Prompts(document, document.section("gateway", GatewayConfig))


def chosen(made: Prompts, language: str | None = None, prompt: str | None = None) -> Template:
    policy = RoutePolicy() if prompt is None else RouteConfig(targets=("a/b",), prompt=prompt)
    spec = ChatSpec(grounding=Grounding(corpora=["corpora/a"]), answer_language=language)
    template = made.template_for(spec, policy)
    assert template is not None
    return template


def write(folder: Path, **texts: str) -> Path:
    """Writes templates; `grounded__v2__en` is grounded/v2.en.md."""
    for name, text in texts.items():
        use, version, language = name.split("__")
        (folder / use).mkdir(parents=True, exist_ok=True)
        (folder / use / f"{version}.{language}.md").write_text(text, encoding="utf-8")
    return folder


def test_every_language_marks_passages_as_data_and_shows_how_to_cite(tmp_path: Path) -> None:
    made = prompts(tmp_path)
    found = {language: chosen(made, language) for language in LANGUAGES}
    assert {template.id for template in found.values()} == {f"grounded/v1.{language}" for language in LANGUAGES}
    for template in found.values():
        assert [line[:2] for line in template.text.splitlines()] == [template.text[:2], "", "- ", "- ", "- "]
        assert all(mark in template.text for mark in ("[p1]", "[p2]", "[p1][p3]"))
        assert template.sha256 == hashlib.sha256(template.text.encode()).hexdigest()
    assert "untrusted data" in found["en"].text


def test_the_nearest_language_is_taken(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", grounded__v2__pt="a", grounded__v2__fi="b", **{"grounded__v1__pt-BR": "brasil"})
    made = prompts(tmp_path, prompts={"folder": "own"})
    assert folder.is_dir()
    for language, expected in (
        (None, "v1.en"),
        ("DE-at", "v1.de"),
        ("ja", "v1.en"),
        ("pt-br", "v1.pt-BR"),
        ("pt-BR-x-a", "v1.pt-BR"),
        ("pt-PT", "v1.pt"),
    ):
        assert chosen(made, language).id == f"grounded/{expected}", language
    assert chosen(made, "pt-BR", "grounded/v2").id == "grounded/v2.pt"
    assert chosen(made, "ja", "grounded/v2").id == "grounded/v2.fi"  # there is none in English
    # A prompt that is gone since the route was planned.
    assert chosen(made, "en", "grounded/v9").id == "grounded/v1.en"
    assert made.template_for(ChatSpec(), RoutePolicy()) is None


def test_the_operators_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "own", grounded__v1__en="Only from these.\n", brief__v1__en="Short.\n")
    (tmp_path / "own" / "README.md").write_text("not a template")
    (tmp_path / "own" / "grounded" / "notes.txt").write_text("nor this")
    (tmp_path / "own" / ".git").mkdir()
    made = prompts(tmp_path, prompts={"folder": str(tmp_path / "own"), "use": "brief/v1"})
    assert chosen(made).text == "Short.\n"
    assert chosen(made, prompt="grounded/v1").text == "Only from these.\n"
    assert chosen(made, "de", "grounded/v1").text.startswith("Antworte")
    assert prompts(tmp_path).folder is None


def test_the_language_of_the_answer_and_the_callers_instruction_are_told_beside_the_template() -> None:
    template = Template("grounded/v1.en", "", "Cite.")
    record = AttemptRecord(1, Target(provider="p", model="m"))

    def request(passages: Sequence[Passage] = (), **fields: Any) -> GenerateRequest:
        return generate_request(ChatSpec(**fields), record, template, passages, whole=False)

    wish = "Answer in the language with the BCP 47 tag pt-BR."
    assert request(answer_language="pt-BR").system_instruction == wish
    both = request([Passage(id="p1")], answer_language="pt-BR", system_instruction="Be brief.")
    assert both.system_instruction == f"Be brief.\n\n{wish}"
    assert both.grounding_instruction == "Cite."
    assert not request(system_instruction="Be brief.").HasField("grounding_instruction")  # nothing was found


def damaged(folder: Path) -> Iterator[tuple[str, str]]:
    """Makes one damage after the other, and yields what is said of it."""
    file = write(folder, grounded__v3__en="good") / "grounded" / "v3.en.md"
    for data, said in (
        (b" \n\t", "grounded/v3.en.md is empty"),
        (b"\xff\xfe", "grounded/v3.en.md is not UTF-8 text"),
        (b"x" * (MAX_TEMPLATE_BYTES + 1), "grounded/v3.en.md is larger than 65536 bytes"),
    ):
        file.write_bytes(data)
        yield "folder", said
    file.unlink()
    file.mkdir()
    yield "folder", "grounded/v3.en.md is not a file"
    file.rmdir()
    for name in ("v3_en.md", "v3.md", "v3.e.md", "V3.en.md"):
        (folder / "grounded" / name).write_text("good")
        yield "folder", f"grounded/{name} is not named like grounded/v1.en.md"
        (folder / "grounded" / name).unlink()


def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path) -> None:
    settings = {"prompts": {"folder": "own"}}
    for setting, said in damaged(tmp_path / "own"):
        with pytest.raises(ConfigError) as caught:
            prompts(tmp_path, **settings)
        text = (tmp_path / "sluice.yaml").read_text().splitlines()
        line = next(number for number, row in enumerate(text, 1) if setting in row)
        assert f"sluice.yaml:{line}: gateway.prompts.folder: {said}" in str(caught.value)
    for wrong, said in (
        ({"prompts": {"folder": "absent"}}, "gateway.prompts.folder: "),
        ({"prompts": {"use": "grounded/v9"}}, "gateway.prompts.use: no prompt 'grounded/v9'; there are: grounded/v1"),
        ({"routes": {"default": {"targets": ["a/b"], "prompt": "x"}}}, "gateway.routes.default.prompt: no prompt 'x'"),
    ):
        with pytest.raises(ConfigError, match=said):
            prompts(tmp_path, **wrong)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "own", grounded__v1__en="good")
    prompts(tmp_path, prompts={"folder": "own"})

    def refuse(*_: Any) -> None:  # as for everybody but root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    document = ConfigDocument(None, {})
    own = GatewayConfig(prompts=PromptsConfig(folder=str(tmp_path / "own")))
    with pytest.raises(ConfigError, match=r"grounded/v1\.en\.md cannot be read: Permission denied"):
        Prompts(document, own)


def rewrite(document: ConfigDocument, **gateway: Any) -> None:
    assert document.path is not None
    settings = yaml.safe_load(document.path.read_text(encoding="utf-8"))
    settings["gateway"] |= gateway
    document.path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


async def test_templates_follow_their_files(start: Any, ask: Any, tmp_path: Path) -> None:
    """Whole or not at all, and what a request was told stands in `Accepted`."""
    folder = write(tmp_path / "own", grounded__v1__en="first", brief__v1__en="brief")
    target = ["scripted/text?tokens=1"]
    gateway = {
        "prompts": {"folder": str(folder)},
        "routes": {"default": {"targets": target}, "brief": {"targets": target, "prompt": "brief/v1"}},
    }
    async with start(gateway) as client:

        async def told(route: str = "", **fields: Any) -> tuple[str, str]:
            grounding = {"corpora": ["corpora/a"], "policy": "GROUNDING_POLICY_BEST_EFFORT"}
            accepted = (await client.stream(ask(route, grounding=grounding, **fields))).events[0][1].accepted
            return accepted.template_id, accepted.template_sha256

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        reloader = client.gateway.reloader
        assert await told() == ("grounded/v1.en", digest("first"))
        assert await told("brief", answer_language="de") == ("brief/v1.en", digest("brief"))
        assert (await told(answer_language="fr"))[0] == "grounded/v1.fr"
        write(folder, grounded__v1__en="second one")
        reloader._on_tick()
        assert (await told())[1] == digest("second one")
        write(folder, grounded__v1__en="third one", brief__v1__en=" ")
        reloader._on_tick()
        assert not reloader.reload()
        assert (await told())[1] == digest("second one")
        (folder / "brief" / "v1.en.md").unlink()
        assert not reloader.reload()  # a route wants it
        rewrite(client.mesh.document, routes={"default": {"targets": target}}, prompts={})
        assert reloader.reload()
        assert (await told())[0] == "grounded/v1.en"
        assert (await told())[1] not in (digest("second one"), digest("third one"))
