"""`ModelService`: what can be asked."""

from typing import Final

from google.protobuf.duration_pb2 import Duration

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import model_service_pb2 as pb
from sluice.provider.v1.model_pb2 import Model
from sluice_gateway.catalog import Catalog
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.plan import Planner, parse_target
from sluice_gateway.services.paging import page
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.rpc import invalid_field

_DEFAULT_PAGE: Final = 1000


class ModelService:
    """Implements sluice.gateway.v1.ModelService."""

    def __init__(self, integrations: Integrations, planner: Planner, catalog: Catalog) -> None:
        self._integrations = integrations
        self._planner = planner
        self._catalog = catalog

    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        asked = [self._integrations.get(request.integration)] if request.integration else list(self._integrations)
        # A later page goes on where the first one was; asking again between two would only tear them apart.
        refresh = request.refresh and not request.page_token
        models: list[pb.IntegrationModel] = []
        unreachable: list[pb.UnreachableIntegration] = []
        for integration, answer in await self._catalog.models(asked, call, refresh=refresh):
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
                models.extend(_integration_model(integration.id, model) for model in answer)
        models.sort(key=_name)
        taken, token = page(models, _name, request.page_size, request.page_token, _DEFAULT_PAGE)
        return pb.ListModelsResponse(models=taken, next_page_token=token, unreachable=unreachable)

    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        target = parse_target(request.name)
        if target is None:
            raise invalid_field("name", "expected integration/model")
        model = await self._catalog.find(target, call)
        if model is None:
            raise make_error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
                f"{target.provider} has no model '{target.model}'",
                metadata={"model": request.name},
            )
        return pb.GetModelResponse(model=_integration_model(target.provider, model))

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


def _integration_model(integration: str, model: Model) -> pb.IntegrationModel:
    return pb.IntegrationModel(integration=integration, name=f"{integration}/{model.id}", model=model)


def _name(model: pb.IntegrationModel) -> str:
    return model.name


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
