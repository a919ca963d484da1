"""Wires the gateway together."""

import argparse
from collections.abc import Sequence

from sluice.gateway.v1 import (
    chat_service_pb2,
    conversation_service_pb2,
    embedding_service_pb2,
    integration_service_pb2,
    model_service_pb2,
    usage_service_pb2,
)
from sluice_gateway import forward
from sluice_gateway.cache.answers import AnswerCache
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import GatewayConfig
from sluice_gateway.conversations.conversations import Conversations
from sluice_gateway.conversations.sweeper import Sweeper
from sluice_gateway.folder import usable
from sluice_gateway.gauges import watch_gauges
from sluice_gateway.health import Health, HealthMonitor
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.calls import Admission, CallMeans
from sluice_gateway.pipeline.plan import Planner, Routes
from sluice_gateway.pipeline.prompts import Prompts
from sluice_gateway.pipeline.run import Pipeline
from sluice_gateway.pipeline.settle import Prices
from sluice_gateway.records.database import open_records
from sluice_gateway.records.ledger import Ledger
from sluice_gateway.records.url import check_urls
from sluice_gateway.registration import AllowList, Registration
from sluice_gateway.reload import Reloader
from sluice_gateway.responses.registry import Responses
from sluice_gateway.retrieval import Retrieval
from sluice_gateway.services.chat import ChatService
from sluice_gateway.services.conversations import ConversationService
from sluice_gateway.services.embeddings import EmbeddingService
from sluice_gateway.services.integrations import IntegrationService
from sluice_gateway.services.models import ModelService
from sluice_gateway.services.usage import UsageService
from sluice_kit import peers
from sluice_kit.auth import internal_authenticator, public_authenticator
from sluice_kit.channels import ChannelPool
from sluice_kit.config import AuthConfig, ConfigDocument, ServerConfig, check_listeners
from sluice_kit.health import Check
from sluice_kit.main import parser, run
from sluice_kit.server import Server
from sluice_kit.tls import mesh_tls, public_tls


class Gateway:
    """The gateway as a service of the mesh."""

    name = "gateway"

    def __init__(self, document: ConfigDocument) -> None:
        config = document.section("gateway", GatewayConfig)
        listeners = [("gateway.listen", config.listen)]
        if config.probe is not None:
            listeners.append(("gateway.probe", config.probe))
        inside = [("gateway.internal", config.internal)] if config.internal is not None else []
        check_listeners(document, document.section("auth", AuthConfig), listeners, inside)
        if config.replicas > 1 or config.log.redis is not None:
            # Redis's client takes a while to load, and most gateways need none.
            from sluice_gateway.responses.redis_settings import check_log

            check_log(document, config)
        check_urls(document, config)
        self.listen = config.listen
        self.probe = config.probe
        self.authenticator = public_authenticator(document)
        self.tls = public_tls(document, config.tls)
        self._mesh_tls = mesh_tls(document)
        self._document = document
        self._config = config
        self._prices = Prices(document, config)
        self._prompts = Prompts(document, config)
        Routes(document, config)  # so that mistakes in it are found before anything runs
        # Everything below needs a running event loop, so `register` makes it.
        self._channels: ChannelPool
        self._integrations: Integrations
        self._ledger: Ledger
        self._registration: Registration
        self._inside: Server | None = None
        self.pipeline: Pipeline
        self.reloader: Reloader
        self.responses: Responses
        self.conversations: Conversations
        self._sweeper: Sweeper
        self.catalog: Catalog
        self.calls: Admission
        self.cache: AnswerCache
        self.monitor: HealthMonitor

    def register(self, server: Server) -> None:
        config = self._config
        folder = usable(self._document.state_dir() / "gateway")
        self._channels = channels = ChannelPool(self._mesh_tls)
        self._integrations = Integrations(self._document, config.integrations, channels)
        planner = Planner(self._document, config, self._integrations)
        self.reloader = Reloader(self._document, planner, self._prices, self._prompts)
        peer = channels.get(config.retrieval.address, peers.RETRIEVAL) if config.retrieval is not None else None
        self._ledger = Ledger(open_records(self._document, config.records, folder))
        server.add(usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"], UsageService(self._ledger.usage))
        self.catalog = Catalog(self._integrations, config.catalog)
        self.cache = AnswerCache(config.cache)
        self.pipeline = Pipeline(
            self._integrations,
            Retrieval(peer, config.retrieval.wait_seconds if config.retrieval is not None else 0.0),
            self._ledger,
            self._prices,
            config.resilience,
            self.catalog,
            self.cache,
            self._prompts,
        )
        self.conversations = Conversations(self._document, config, self.catalog, self._integrations)
        self._sweeper = Sweeper(config.retention, self.conversations, self._ledger)
        server.add(
            conversation_service_pb2.DESCRIPTOR.services_by_name["ConversationService"],
            ConversationService(self.conversations),
        )
        self.responses = Responses(config, planner, self._ledger, self.pipeline.run, self.conversations)
        if config.log.redis is not None:
            from sluice_gateway.responses.redis_log import RedisStore

            self.responses.share(RedisStore(config, config.log.redis))
        server.add(chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"], ChatService(self.responses))
        means = CallMeans(self._integrations, self._ledger, self._prices, self.pipeline.standings, config.resilience)
        self.calls = Admission(config.admission)
        embeddings = EmbeddingService(means, planner, self.calls, config.embeddings)
        server.add(embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"], embeddings)
        if config.internal is not None:
            # For the services behind the door, which bring the identity of whom they work for.
            self._inside = Server(
                "gateway-internal",
                config.internal,
                None,
                internal_authenticator(self._document, self._mesh_tls),
                self._document.section("server", ServerConfig),
                self._mesh_tls.listener() if self._mesh_tls is not None else None,
            )
            self._inside.add(embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"], embeddings)
        models = ModelService(self._integrations, planner, self.catalog)
        server.add(model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], models)
        health = Health()
        self.monitor = HealthMonitor(
            self._integrations, health, config.health, config.watchers.heartbeat_seconds, self.catalog.invalidate
        )
        self._registration = Registration(
            AllowList(self._document, config.registration.allow),
            self._integrations,
            self._ledger.registered,
            self.catalog,
            self.monitor,
            config.records.poll_seconds if self._ledger.shared else None,
            self.pipeline.standings,
        )
        server.add(
            integration_service_pb2.DESCRIPTOR.services_by_name["IntegrationService"],
            IntegrationService(self._integrations, health, self.monitor, self.catalog, self._registration),
        )
        watch_gauges(config, self.responses, self.calls, self.pipeline.standings, self._integrations, self._ledger)
        forward.register(server, forward.Peers({forward.RETRIEVAL: peer} if peer is not None else {}))

    async def start(self) -> None:
        await self._ledger.recover()
        await self._registration.start()
        await self.conversations.start()
        await self._integrations.start()
        self._sweeper.start()
        self.responses.start()
        self.reloader.start()
        self.monitor.start()
        if self._inside is not None:
            await self._inside.bind()
            await self._inside.ready()

    def reload(self) -> None:
        """Takes routes, prices and templates from the configuration anew: what SIGHUP asks for."""
        self.reloader.reload()

    @property
    def needs(self) -> dict[str, Check]:
        """What requests cannot be taken without; see `sluice_kit.health`."""
        return self.responses.needs | ({"records": self._ledger.ping} if self._ledger.shared else {})

    async def drain(self, grace: float) -> None:
        """Lets responses end, those too that nobody watches here, and ends the rest when the grace is over."""
        self.responses.announce_shutdown(grace)
        self.monitor.drain()
        if self._inside is not None:
            await self._inside.report_stopping()
        await self.responses.drain(grace)

    async def stop(self) -> None:
        self.reloader.close()
        await self._registration.close()
        if self._inside is not None:
            await self._inside.stop(0)
        await self._sweeper.close()
        await self.responses.close()
        await self.conversations.close()
        await self.monitor.close()
        await self.catalog.close()
        await self._integrations.close()
        await self._channels.close()
        await self._ledger.close()


def create(document: ConfigDocument, options: argparse.Namespace) -> Gateway:  # noqa: ARG001  # the signature of every service
    """Makes the gateway from its configuration. Raises ConfigError."""
    return Gateway(document)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the gateway as a process and returns its exit code."""
    return run("gateway", create, parser("gateway"), argv)
