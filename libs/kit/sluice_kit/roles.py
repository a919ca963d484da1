"""What each RPC needs: one table, and what is not in it is denied."""

from collections.abc import Mapping
from typing import Final

from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice_kit.errors import PermissionDeniedError
from sluice_kit.identity import has_role

_USER: Final = Role.ROLE_USER
_EDITOR: Final = Role.ROLE_EDITOR
_ADMIN: Final = Role.ROLE_ADMIN

ROLES: Final[Mapping[str, "Role.ValueType"]] = {
    "/sluice.gateway.v1.ChatService/StreamChat": _USER,
    "/sluice.gateway.v1.ChatService/Chat": _USER,
    "/sluice.gateway.v1.ChatService/ResumeChat": _USER,
    "/sluice.gateway.v1.ChatService/CancelChat": _USER,
    "/sluice.gateway.v1.ChatService/GetResponse": _USER,
    "/sluice.gateway.v1.ConversationService/CreateConversation": _USER,
    "/sluice.gateway.v1.ConversationService/GetConversation": _USER,
    "/sluice.gateway.v1.ConversationService/ListConversations": _USER,
    "/sluice.gateway.v1.ConversationService/DeleteConversation": _USER,
    "/sluice.gateway.v1.ConversationService/ListTurns": _USER,
    "/sluice.gateway.v1.ConversationService/ClearConversation": _USER,
    "/sluice.gateway.v1.EmbeddingService/Embed": _USER,
    "/sluice.gateway.v1.EmbeddingService/Rerank": _USER,
    "/sluice.gateway.v1.EmbeddingService/CountTokens": _USER,
    "/sluice.gateway.v1.ModelService/ListModels": _USER,
    "/sluice.gateway.v1.ModelService/GetModel": _USER,
    "/sluice.gateway.v1.ModelService/ListRoutes": _USER,
    "/sluice.gateway.v1.IntegrationService/ListIntegrations": _USER,
    "/sluice.gateway.v1.IntegrationService/GetIntegrationHealth": _USER,
    "/sluice.gateway.v1.IntegrationService/WatchIntegrationHealth": _USER,
    "/sluice.gateway.v1.IntegrationService/BeginSignIn": _ADMIN,
    "/sluice.gateway.v1.IntegrationService/RegisterIntegration": _ADMIN,
    "/sluice.gateway.v1.IntegrationService/RemoveIntegration": _ADMIN,
    "/sluice.gateway.v1.UsageService/QueryUsage": _USER,
    "/sluice.provider.v1.ProviderService/Generate": _USER,
    "/sluice.provider.v1.ProviderService/GenerateWhole": _USER,
    "/sluice.provider.v1.ProviderService/Embed": _USER,
    "/sluice.provider.v1.ProviderService/Rerank": _USER,
    "/sluice.provider.v1.ProviderService/CountTokens": _USER,
    "/sluice.provider.v1.ProviderService/ListModels": _USER,
    "/sluice.provider.v1.ProviderService/GetStatus": _USER,
    "/sluice.provider.v1.ProviderService/SignIn": _ADMIN,
    "/sluice.retrieval.v1.CorpusService/CreateCorpus": _EDITOR,
    "/sluice.retrieval.v1.CorpusService/GetCorpus": _USER,
    "/sluice.retrieval.v1.CorpusService/ListCorpora": _USER,
    "/sluice.retrieval.v1.CorpusService/DeleteCorpus": _EDITOR,
    "/sluice.retrieval.v1.CorpusService/IndexCorpus": _EDITOR,
    "/sluice.retrieval.v1.CorpusService/MoveCorpus": _EDITOR,
    "/sluice.retrieval.v1.CorpusService/ListDocuments": _USER,
    "/sluice.retrieval.v1.CorpusService/GetDocument": _USER,
    "/sluice.retrieval.v1.SearchService/Search": _USER,
    "/sluice.retrieval.v1.SearchService/VerifySpans": _USER,
    "/sluice.task.v1.TaskService/GetTask": _USER,
    "/sluice.task.v1.TaskService/ListTasks": _USER,
    "/sluice.task.v1.TaskService/CancelTask": _EDITOR,
    "/sluice.task.v1.TaskService/WatchTask": _USER,
}


def authorize(identity: Identity, method: str) -> None:
    """Raises PermissionDeniedError unless the identity may call the method (`/package.Service/Method`)."""
    role = ROLES.get(method)
    if role is None:
        raise PermissionDeniedError("no role may call this method")
    if not has_role(identity, role):
        name = Role.Name(role).removeprefix("ROLE_")
        raise PermissionDeniedError(f"this needs the role {name}", metadata={"role": name})
