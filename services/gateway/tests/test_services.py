"""Models, integrations, embeddings, and the door to the other services."""

import asyncio
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import embedding_service_pb2 as embed_pb
from sluice.gateway.v1 import embedding_service_pb2_grpc as embed_grpc
from sluice.gateway.v1 import integration_service_pb2 as integration_pb
from sluice.gateway.v1 import integration_service_pb2_grpc as integration_grpc
from sluice.gateway.v1 import model_service_pb2 as model_pb
from sluice.gateway.v1 import model_service_pb2_grpc as model_grpc
from sluice.retrieval.v1 import corpus_service_pb2 as corpus_pb
from sluice.retrieval.v1 import corpus_service_pb2_grpc as corpus_grpc
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice.task.v1 import task_service_pb2_grpc as task_grpc
from sluice_gateway import retrieval
from sluice_kit.errors import SluiceError, from_rpc_error

R = ErrorReason
GONE = {"integrations": {"gone": {"address": "unix:/nonexistent/sluice.sock"}}}


async def failure_of(call: Any) -> SluiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_one_adapter_that_is_down_hides_no_other(start: Any) -> None:
    async with start(GONE) as client:
        stub: Any = model_grpc.ModelServiceStub(client.channel)
        answer = await stub.ListModels(model_pb.ListModelsRequest())
        assert "scripted/echo" in [model.name for model in answer.models]
        assert [one.integration for one in answer.unreachable] == ["gone"]
        health: Any = integration_grpc.IntegrationServiceStub(client.channel)
        listed = (await health.ListIntegrations(integration_pb.ListIntegrationsRequest())).integrations
        assert {one.id: one.health.state for one in listed} == {
            "gone": integration_pb.HealthState.HEALTH_STATE_UNREACHABLE,
            "scripted": integration_pb.HealthState.HEALTH_STATE_AVAILABLE,
        }
        probed = await health.GetIntegrationHealth(integration_pb.GetIntegrationHealthRequest(integration="scripted"))
        assert probed.health.state == integration_pb.HealthState.HEALTH_STATE_AVAILABLE


async def test_models_come_in_pages(client: Any) -> None:
    stub: Any = model_grpc.ModelServiceStub(client.channel)
    whole = [model.name for model in (await stub.ListModels(model_pb.ListModelsRequest())).models]
    assert len(whole) > 3
    assert whole == sorted(whole)
    paged: list[str] = []
    token = ""
    while True:
        answer = await stub.ListModels(model_pb.ListModelsRequest(page_size=2, page_token=token))
        paged += [model.name for model in answer.models]
        token = answer.next_page_token
        if not token:
            break
    assert paged == whole
    failure = await failure_of(stub.ListModels(model_pb.ListModelsRequest(page_token="@@")))
    assert failure.violations[0].field == "page_token"


async def test_one_model(client: Any) -> None:
    stub: Any = model_grpc.ModelServiceStub(client.channel)
    assert (await stub.GetModel(model_pb.GetModelRequest(name="scripted/echo"))).model.model.id == "echo"
    for name in ("scripted/absent", "nobody/x"):
        assert (await failure_of(stub.GetModel(model_pb.GetModelRequest(name=name)))).reason == (
            R.ERROR_REASON_MODEL_NOT_FOUND
        )
    failure = await failure_of(stub.GetModel(model_pb.GetModelRequest(name="absent")))
    assert failure.reason == R.ERROR_REASON_INVALID_REQUEST


async def test_routes(start: Any) -> None:
    async with start({"routes": {"default": {"targets": ["scripted/echo"], "ttft_seconds": 1.5}}}) as client:
        stub: Any = model_grpc.ModelServiceStub(client.channel)
        answer = await stub.ListRoutes(model_pb.ListRoutesRequest())
    assert answer.default_alias == "default"
    [route] = answer.routes
    assert route.targets[0].model == "echo"
    assert route.time_to_first_token.ToMilliseconds() == 1500


async def test_embeddings_keep_their_order(start: Any, ask: Any, placement: str) -> None:
    async with start(placement=placement) as client:
        stub: Any = embed_grpc.EmbeddingServiceStub(client.channel)
        texts = [f"text number {number}" for number in range(40)]
        answer = await stub.Embed(embed_pb.EmbedRequest(model="scripted/embed", texts=texts))
        single = await stub.Embed(embed_pb.EmbedRequest(model="scripted/embed", texts=texts[7:8]))
        assert len(answer.embeddings) == 40
        assert list(answer.embeddings[7].values) == list(single.embeddings[0].values)
        assert answer.target.model == "embed"
        failure = await failure_of(stub.Embed(embed_pb.EmbedRequest(model="scripted/embed")))
        assert failure.violations[0].field == "texts"
        counted = await stub.CountTokens(
            embed_pb.CountTokensRequest(model="scripted/echo", messages=ask(text="a b c").messages)
        )
        assert counted.tokens > 0
        assert counted.target.model == "echo"


async def test_a_service_that_is_not_there_is_named(start: Any) -> None:
    for gateway in ({}, {"retrieval": {"address": "unix:/nonexistent/sluice.sock"}}):
        async with start(gateway) as client:
            corpora: Any = corpus_grpc.CorpusServiceStub(client.channel)
            tasks: Any = task_grpc.TaskServiceStub(client.channel)
            failure = await failure_of(corpora.ListCorpora(corpus_pb.ListCorporaRequest()))
            assert failure.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
            assert failure.metadata["service"] == "retrieval"
            listed = await tasks.ListTasks(task_pb.ListTasksRequest())
            assert list(listed.unreachable) == ["ret"]
            failure = await failure_of(tasks.GetTask(task_pb.GetTaskRequest(name="tasks/zzz-1")))
            assert failure.reason == R.ERROR_REASON_NOT_FOUND


async def test_grounding_without_retrieval(client: Any, ask: Any) -> None:
    required = await client.stream(ask(grounding={"corpora": ["corpora/docs"]}))
    assert required.error is not None
    assert required.error.reason == R.ERROR_REASON_GROUNDING_UNAVAILABLE
    best = await client.stream(ask(grounding={"corpora": ["corpora/docs"], "policy": "GROUNDING_POLICY_BEST_EFFORT"}))
    assert best.error is None
    assert best.kinds[:2] == ["accepted", "notice"]
    assert best.events[0][1].accepted.template_sha256


async def test_retrieval_that_hangs(start: Any, ask: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    over = asyncio.Event()

    async def search(request: bytes, context: Any) -> bytes:
        await over.wait()
        return b""

    monkeypatch.setattr(retrieval, "_SEARCH_SECONDS", 0.1)
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Search": grpc.unary_unary_rpc_method_handler(search)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("sluice.retrieval.v1.SearchService", handlers),)
    )
    address = f"unix:{tmp_path}/retrieval.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with start({"retrieval": {"address": address, "wait_seconds": 0}}) as client:
            required = await client.stream(ask(grounding={"corpora": ["corpora/docs"]}), timeout=600)
            best = await client.stream(
                ask(grounding={"corpora": ["corpora/docs"], "policy": "GROUNDING_POLICY_BEST_EFFORT"}), timeout=600
            )
    finally:
        over.set()
        await server.stop(None)
    assert required.error is not None
    assert required.error.reason == R.ERROR_REASON_GROUNDING_UNAVAILABLE  # its time was over, not the caller's
    assert "did not answer within 0.1 s" in required.error.message
    assert best.error is None
    assert best.events[1][1].notice.metadata["reason"] == "GROUNDING_UNAVAILABLE"


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no message", "text that is not UTF-8"])
async def test_bytes_that_are_no_request(client: Any, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    failures = [await failure_of(client.channel.unary_unary("/sluice.gateway.v1.ChatService/Chat")(data))]
    stream = client.channel.unary_stream("/sluice.gateway.v1.ChatService/StreamChat")(data)
    failures.append(await failure_of(stream.read()))
    for failure in failures:
        assert failure.reason == R.ERROR_REASON_INVALID_REQUEST
        assert "cannot be read" in failure.message
    assert not [record for record in caplog.records if record.exc_info]


async def test_words_for_what_is_missing(client: Any, ask: Any) -> None:
    spec = ask(text="")
    spec.messages[0].ClearField("role")
    failure = (await client.stream(spec)).error
    assert [(row.field, row.description) for row in failure.violations] == [
        ("spec.messages[0].role", "must be set"),
        ("spec.messages[0].parts[0].text", "must not be empty"),
    ]


async def test_keys_open_the_door(start: Any, ask: Any, tmp_path: Any) -> None:
    import hashlib

    keys = tmp_path / "keys.yaml"
    rows = [("u", "one", "user"), ("e", "two", "editor")]
    keys.write_text(
        "keys:\n"
        + "".join(
            f"  - {{id: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, tenant: {tenant}, roles: [{role}]}}\n"
            for name, tenant, role in rows
        )
    )
    async with start(auth={"mode": "keys", "keys_file": str(keys)}) as client:
        assert (await client.stream(ask())).error.reason == R.ERROR_REASON_UNAUTHENTICATED
        one = {"metadata": [("authorization", "Bearer u")]}
        two = {"metadata": [("authorization", "Bearer e")]}
        seen = await client.stream(ask(), **one)
        assert seen.error is None
        [row] = await client.rows("responses")
        assert (row["tenant"], row["key_id"]) == ("one", "u")
        # Another tenant's response does not exist.
        from sluice.gateway.v1 import chat_service_pb2 as pb

        request = pb.GetResponseRequest(response=seen.response)
        assert (await client.chat.GetResponse(request, **one)).last_sequence > 0
        assert (await failure_of(client.chat.GetResponse(request, **two))).reason == R.ERROR_REASON_NOT_FOUND
        # A user may not index; the door says so before anybody is asked.
        corpora: Any = corpus_grpc.CorpusServiceStub(client.channel)
        create = corpus_pb.CreateCorpusRequest(corpus_id="x")
        assert (await failure_of(corpora.CreateCorpus(create, **one))).reason == R.ERROR_REASON_PERMISSION_DENIED
        assert (await failure_of(corpora.CreateCorpus(create, **two))).reason == R.ERROR_REASON_SERVICE_UNREACHABLE
