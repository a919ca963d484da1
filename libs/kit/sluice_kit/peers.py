"""Which service may call which RPC inside the mesh: one table, and what is not in it is denied.

It holds where peers show certificates, on listeners with mutual TLS. Health checks and reflection are open to every
service. Who a call is made for, and what they may do, is decided beside it ([roles](roles.py)).
"""

from collections.abc import Mapping
from typing import Any, Final

from sluice_kit.errors import PermissionDeniedError
from sluice_kit.tls import Trust

GATEWAY: Final = "gateway"
RETRIEVAL: Final = "retrieval"
SUPERVISOR: Final = "supervisor"
"""`sluice up`, which asks its processes how they are."""
RESERVED: Final = frozenset({GATEWAY, RETRIEVAL, SUPERVISOR, "workflows"})
"""Names that no integration may have: its certificate would make it another service."""

_NOBODY: Final[frozenset[str]] = frozenset()
_GATEWAY: Final = frozenset({GATEWAY})
_RETRIEVAL: Final = frozenset({RETRIEVAL})

DELEGATES: Final = frozenset({GATEWAY, RETRIEVAL, SUPERVISOR})
"""Services that are believed when they say on whose behalf they call."""

CALLERS: Final[Mapping[str, frozenset[str]]] = {
    "/sluice.gateway.v1.ChatService/StreamChat": _NOBODY,
    "/sluice.gateway.v1.ChatService/Chat": _NOBODY,
    "/sluice.gateway.v1.ChatService/ResumeChat": _NOBODY,
    "/sluice.gateway.v1.ChatService/CancelChat": _NOBODY,
    "/sluice.gateway.v1.ChatService/GetResponse": _NOBODY,
    "/sluice.gateway.v1.ConversationService/CreateConversation": _NOBODY,
    "/sluice.gateway.v1.ConversationService/GetConversation": _NOBODY,
    "/sluice.gateway.v1.ConversationService/ListConversations": _NOBODY,
    "/sluice.gateway.v1.ConversationService/DeleteConversation": _NOBODY,
    "/sluice.gateway.v1.ConversationService/ListTurns": _NOBODY,
    "/sluice.gateway.v1.ConversationService/ClearConversation": _NOBODY,
    "/sluice.gateway.v1.EmbeddingService/Embed": _RETRIEVAL,
    "/sluice.gateway.v1.EmbeddingService/Rerank": _RETRIEVAL,
    "/sluice.gateway.v1.EmbeddingService/CountTokens": _RETRIEVAL,
    "/sluice.gateway.v1.ModelService/ListModels": _NOBODY,
    "/sluice.gateway.v1.ModelService/GetModel": _NOBODY,
    "/sluice.gateway.v1.ModelService/ListRoutes": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/ListIntegrations": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/GetIntegrationHealth": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/WatchIntegrationHealth": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/BeginSignIn": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/RegisterIntegration": _NOBODY,
    "/sluice.gateway.v1.IntegrationService/RemoveIntegration": _NOBODY,
    "/sluice.gateway.v1.UsageService/QueryUsage": _NOBODY,
    "/sluice.provider.v1.ProviderService/Generate": _GATEWAY,
    "/sluice.provider.v1.ProviderService/GenerateWhole": _GATEWAY,
    "/sluice.provider.v1.ProviderService/Embed": _GATEWAY,
    "/sluice.provider.v1.ProviderService/Rerank": _GATEWAY,
    "/sluice.provider.v1.ProviderService/CountTokens": _GATEWAY,
    "/sluice.provider.v1.ProviderService/ListModels": _GATEWAY,
    "/sluice.provider.v1.ProviderService/GetStatus": frozenset({GATEWAY, SUPERVISOR}),
    "/sluice.provider.v1.ProviderService/SignIn": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/CreateCorpus": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/GetCorpus": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/ListCorpora": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/DeleteCorpus": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/IndexCorpus": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/MoveCorpus": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/ListDocuments": _GATEWAY,
    "/sluice.retrieval.v1.CorpusService/GetDocument": _GATEWAY,
    "/sluice.retrieval.v1.SearchService/Search": _GATEWAY,
    "/sluice.retrieval.v1.SearchService/VerifySpans": _GATEWAY,
    "/sluice.task.v1.TaskService/GetTask": _GATEWAY,
    "/sluice.task.v1.TaskService/ListTasks": _GATEWAY,
    "/sluice.task.v1.TaskService/CancelTask": _GATEWAY,
    "/sluice.task.v1.TaskService/WatchTask": _GATEWAY,
}


def admit(trust: Trust, method: str, context: Any) -> str:
    """Returns the SPIFFE id of the service that makes a call.

    `method` is `/package.Service/Method`, `context` grpc's. Raises PermissionDeniedError if the peer's certificate names
    no service of the trust domain, or one that may not call the method.
    """
    service = trust.service_of(context.auth_context().get("peer_uri", ()))
    if service is None:
        raise PermissionDeniedError("the caller's certificate names no service of this mesh")
    if service not in CALLERS.get(method, _NOBODY):
        raise PermissionDeniedError(f"the service {service} may not call this method", metadata={"caller": service})
    return trust.id_of(service)
