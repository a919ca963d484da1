// Loads the contracts from the repository's protos/ and opens clients of a Sluice gateway. Nothing is generated.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const definition = protoLoader.loadSync(
  [
    "sluice/gateway/v1/chat_service.proto",
    "sluice/retrieval/v1/corpus_service.proto",
    "sluice/task/v1/task_service.proto",
    // Not services: what a failed call carries, read by reasonOf.
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
  ],
  {
    keepCase: true,
    includeDirs: [protos, `${protos}/third_party`],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  },
);
const { sluice } = grpc.loadPackageDefinition(definition);

// Returns the clients of one gateway, on one connection.
export function connect(address = "127.0.0.1:7400", key = undefined) {
  const options = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_permit_without_calls": 1,
    ...(key && { interceptors: [(call, next) => new grpc.InterceptingCall(next(call), bearer(key))] }),
  };
  const plain = grpc.credentials.createInsecure();
  const chat = new sluice.gateway.v1.ChatService(address, plain, options);
  const shared = { ...options, channelOverride: chat.getChannel() };
  return {
    chat,
    corpora: new sluice.retrieval.v1.CorpusService(address, plain, shared),
    tasks: new sluice.task.v1.TaskService(address, plain, shared),
    close: () => chat.close(),
  };
}

function bearer(key) {
  return {
    start(metadata, listener, next) {
      metadata.set("authorization", `Bearer ${key}`);
      next(metadata, listener);
    },
  };
}

// Calls a unary method and returns a promise of its response.
export function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// Returns the reason of a failed call as sluice.error.v1.ErrorReason spells it, e.g. "CORPUS_NOT_READY"; undefined for
// a failure that grpc made itself, such as a refused connection.
export function reasonOf(error) {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!packed) return undefined;
  const { details } = definition["google.rpc.Status"].deserialize(packed);
  const info = details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  return info && definition["google.rpc.ErrorInfo"].deserialize(info.value).reason;
}
