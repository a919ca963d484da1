export {
  type CallOptions,
  type CallSettings,
  type ChatSpec,
  type ClientOptions,
  SluiceClient,
  type StreamChatOptions,
} from "./client.js";
export { type FieldViolation, isRetryable, ProtocolError, SluiceError } from "./errors.js";
export { NumberedStream, type StreamOptions } from "./numbered.js";
export { DEFAULT_RETRY, type RetryPolicy } from "./retry.js";
export { ChatStream, type NumberedEvent, type NumberedTask, TaskStream, type TaskStreamOptions } from "./streams.js";
export { ErrorReason } from "../gen/sluice/error/v1/error_reason_pb.js";
