/** Failures with a reason, from the closed list of the contract. */

import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, HelpSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { ErrorReason } from "../gen/sluice/error/v1/error_reason_pb.js";

const DOMAIN = "sluice";

/** One field of a request that breaks a rule: its path, e.g. `spec.messages[0].role`, and what is wrong. */
export interface FieldViolation {
  field: string;
  description: string;
}

interface Details {
  code: Code;
  retryAfterMs?: number | undefined;
  metadata?: Record<string, string>;
  violations?: FieldViolation[];
  helpUrl?: string | undefined;
  detailed?: boolean;
  cause?: unknown;
}

/** A failure. `message` is for people, and safe to show. */
export class SluiceError extends Error {
  override readonly name: string = "SluiceError";
  /** Why; for failures that grpc made itself, the nearest reason. */
  readonly reason: ErrorReason;
  /** The gRPC code. */
  readonly code: Code;
  /** How long the server asks to wait, in milliseconds; undefined if it does not say. */
  readonly retryAfterMs: number | undefined;
  /** What the failure is about, e.g. `model` or `provider`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The fields of the request that break a rule. */
  readonly violations: readonly FieldViolation[];
  /** Leads to more. */
  readonly helpUrl: string | undefined;
  /** Whether a service of Sluice decided on it; otherwise grpc or a proxy made it. */
  readonly detailed: boolean;

  constructor(message: string, reason: ErrorReason, details: Details) {
    super(message, { cause: details.cause });
    this.reason = reason;
    this.code = details.code;
    this.retryAfterMs = details.retryAfterMs;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.helpUrl = details.helpUrl;
    this.detailed = details.detailed ?? false;
  }

  /** The reason as ErrorInfo spells it, e.g. `MODEL_NOT_FOUND`. */
  get reasonName(): string {
    return ErrorReason[this.reason];
  }

  /** Whether the same request may succeed later, unchanged, if no content was delivered. */
  get retryable(): boolean {
    return RETRYABLE.has(this.reason);
  }

  /**
   * Whether only the connection broke. A failure with Sluice's details is the answer, not an accident, unless it says that
   * this connection ends and the response goes on.
   */
  get broken(): boolean {
    if (this.detailed) return this.reason === ErrorReason.DRAINING || this.reason === ErrorReason.WATCHER_STALLED;
    return BROKEN.has(this.code);
  }

  /** Returns what an error of a generated client stands for. */
  static from(error: unknown): SluiceError {
    if (error instanceof SluiceError) return error;
    const failed = ConnectError.from(error);
    const [info] = failed.findDetails(ErrorInfoSchema).filter((found) => found.domain === DOMAIN);
    const [retry] = failed.findDetails(RetryInfoSchema);
    const [bad] = failed.findDetails(BadRequestSchema);
    const [help] = failed.findDetails(HelpSchema);
    const wait = retry?.retryDelay;
    // A newer server may know reasons that this client does not; the code still tells the kind.
    const named = info && ErrorReason[info.reason as keyof typeof ErrorReason];
    // grpc's own text names addresses.
    const hidden = info === undefined && failed.code === Code.Unavailable;
    return new SluiceError(
      hidden ? "the gateway service does not answer" : failed.rawMessage,
      named ?? BARE.get(failed.code) ?? ErrorReason.INTERNAL,
      {
        code: failed.code,
        retryAfterMs: wait && Number(wait.seconds) * 1000 + wait.nanos / 1e6,
        metadata: info?.metadata ?? {},
        violations: bad?.fieldViolations.map(({ field, description }) => ({ field, description })) ?? [],
        helpUrl: help?.links[0]?.url,
        detailed: info !== undefined,
        cause: failed.cause,
      },
    );
  }
}

/** The gateway broke a promise of its streams: a gap in the numbers, or an end that is no end. */
export class ProtocolError extends SluiceError {
  override readonly name = "ProtocolError";

  constructor(message: string) {
    super(message, ErrorReason.INTERNAL, { code: Code.Internal, detailed: true });
  }
}

/** Returns the failure of an operation whose time limit passed. */
export function timedOut(): SluiceError {
  return new SluiceError("the time limit of the call passed", ErrorReason.DEADLINE_EXCEEDED, {
    code: Code.DeadlineExceeded,
  });
}

/** Returns the failure of an operation that its caller left; `cause` is the signal's reason. */
export function left(cause?: unknown): SluiceError {
  return new SluiceError("the caller left", ErrorReason.CANCELLED, { code: Code.Canceled, detailed: true, cause });
}

/** Returns the failure of an operation that `SluiceClient.close` ended. */
export function closed(): SluiceError {
  return new SluiceError("the client is closed", ErrorReason.CANCELLED, { code: Code.Canceled, detailed: true });
}

/** Whether a failure with this reason may be gone when the same request is sent again, unchanged. */
export function isRetryable(reason: ErrorReason): boolean {
  return RETRYABLE.has(reason);
}

// Codes that are made where a connection or a proxy on the way breaks, which depends on who reset the stream.
const BROKEN: ReadonlySet<Code> = new Set([Code.Unavailable, Code.Internal, Code.Unknown, Code.Canceled, Code.Aborted]);

const BARE: ReadonlyMap<Code, ErrorReason> = new Map([
  [Code.Unavailable, ErrorReason.SERVICE_UNREACHABLE],
  [Code.DeadlineExceeded, ErrorReason.DEADLINE_EXCEEDED],
  [Code.Canceled, ErrorReason.CANCELLED],
  [Code.Unimplemented, ErrorReason.UNSUPPORTED_OPERATION],
  [Code.ResourceExhausted, ErrorReason.TOO_MANY_IN_FLIGHT],
  [Code.InvalidArgument, ErrorReason.INVALID_REQUEST],
  [Code.Unauthenticated, ErrorReason.UNAUTHENTICATED],
  [Code.PermissionDenied, ErrorReason.PERMISSION_DENIED],
  [Code.NotFound, ErrorReason.NOT_FOUND],
  [Code.AlreadyExists, ErrorReason.ALREADY_EXISTS],
]);

// What the contract calls retryable. The conformance suite compares it with the gateway's.
const RETRYABLE: ReadonlySet<ErrorReason> = new Set([
  ErrorReason.TOO_MANY_IN_FLIGHT,
  ErrorReason.DRAINING,
  ErrorReason.SERVICE_UNREACHABLE,
  ErrorReason.UPSTREAM_RATE_LIMITED,
  ErrorReason.UPSTREAM_OVERLOADED,
  ErrorReason.UPSTREAM_UNAVAILABLE,
  ErrorReason.UPSTREAM_TIMEOUT,
  ErrorReason.UPSTREAM_PROTOCOL_ERROR,
  ErrorReason.EMPTY_RESPONSE,
  ErrorReason.CIRCUIT_OPEN,
  ErrorReason.OUTPUT_INVALID,
  ErrorReason.WATCHER_STALLED,
  ErrorReason.GROUNDING_UNAVAILABLE,
  ErrorReason.CORPUS_BUSY,
  ErrorReason.STORE_UNAVAILABLE,
  ErrorReason.CONVERSATION_BUSY,
]);
