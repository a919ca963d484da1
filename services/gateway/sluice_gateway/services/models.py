"""`ModelService`: what can be asked."""

import asyncio
from collections.abc import Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import model_service_pb2 as pb
from sluice.provider.v1.model_pb2 import Model
from sluice.provider.v1.provider_service_pb2 import ListModelsRequest
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.pipeline.plan import Planner, parse_target
from sluice_gateway.services.paging import page
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.rpc import invalid_field

_ASK_SECONDS: Final = 5.0
_DEFAULT_PAGE: Final = 1000


class ModelService:
    """Implements sluice.gateway.v1.ModelService."""

    def __init__(self, integrations: Integrations, planner: Planner) -> None:
        self._integrations = integrations
        self._planner = planner

    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        asked = [self._integrations.get(request.integration)] if request.integration else list(self._integrations)
        limited = call.with_timeout(_ASK_SECONDS)
        answers = await asyncio.gather(*(self._ask(integration, limited) for integration in asked))
        models: list[pb.IntegrationModel] = []
        unreachable: list[pb.UnreachableIntegration] = []
        for integration, answer in zip(asked, answers, strict=True):
            if isinstance(answer, SluiceError):
                missing = answer.metadata.get("setting", "")
                unreachable.append(
                    pb.UnreachableIntegration(
                        integration=integration.id,
                        message=answer.message,
                        missing_settings=[name.strip() for name in missing.split(",") if name],
                    )
                )
            else:
                models.extend(_integration_model(integration, model) for model in answer)
        models.sort(key=_name)
        taken, token = page(models, _name, request.page_size, request.page_token, _DEFAULT_PAGE)
        return pb.ListModelsResponse(models=taken, next_page_token=token, unreachable=unreachable)

    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        target = parse_target(request.name)
        if target is None:
            raise invalid_field("name", "expected integration/model")
        integration = self._integrations.get(target.provider)
        answer = await self._ask(integration, call.with_timeout(_ASK_SECONDS))
        if isinstance(answer, SluiceError):
            raise answer
        for model in answer:
            if model.id == target.model:
                return pb.GetModelResponse(model=_integration_model(integration, model))
        raise make_error(
            ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
            f"{integration.id} has no model '{target.model}'",
            metadata={"model": request.name},
        )

    async def ListRoutes(self, request: pb.ListRoutesRequest, call: Call) -> pb.ListRoutesResponse:
        routes = [
            pb.Route(
                alias=alias,
                targets=targets,
                time_to_first_token=_duration(config.ttft_seconds),
                idle=_duration(config.idle_seconds),
                total=_duration(config.total_seconds),
            )
            for alias, (targets, config) in self._planner.routes().items()
        ]
        return pb.ListRoutesResponse(routes=routes, default_alias=self._planner.default_alias)

    async def _ask(self, integration: Integration, call: Call) -> Sequence[Model] | SluiceError:
        """Returns every model of an integration, or why it does not list them: one that is down hides no other."""
        models: list[Model] = []
        token = ""
        try:
            async with asyncio.timeout_at(call.deadline):
                while True:
                    answer = await integration.generator.list_models(ListModelsRequest(page_token=token), call)
                    models.extend(answer.models)
                    token = answer.next_page_token
                    if not token:
                        return models
        except TimeoutError:
            return make_error(
                ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, f"{integration.id} did not answer in {_ASK_SECONDS:g} s"
            )
        except SluiceError as error:
            return error


def _integration_model(integration: Integration, model: Model) -> pb.IntegrationModel:
    return pb.IntegrationModel(integration=integration.id, name=f"{integration.id}/{model.id}", model=model)


def _name(model: pb.IntegrationModel) -> str:
    return model.name


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
