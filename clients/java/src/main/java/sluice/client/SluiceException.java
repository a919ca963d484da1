package sluice.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Help;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import sluice.error.v1.ErrorReason;

/** A failure with a reason from the closed list of the contract. Its message is for people, and safe to show. */
public class SluiceException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final String DOMAIN = "sluice";
  private static final String PREFIX = "ERROR_REASON_";

  /** What the contract calls retryable. The conformance suite compares it with the gateway's. */
  private static final Set<ErrorReason> RETRYABLE =
      EnumSet.of(
          ErrorReason.ERROR_REASON_TOO_MANY_IN_FLIGHT,
          ErrorReason.ERROR_REASON_DRAINING,
          ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE,
          ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED,
          ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED,
          ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE,
          ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
          ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
          ErrorReason.ERROR_REASON_EMPTY_RESPONSE,
          ErrorReason.ERROR_REASON_CIRCUIT_OPEN,
          ErrorReason.ERROR_REASON_OUTPUT_INVALID,
          ErrorReason.ERROR_REASON_WATCHER_STALLED,
          ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
          ErrorReason.ERROR_REASON_CORPUS_BUSY,
          ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
          ErrorReason.ERROR_REASON_CONVERSATION_BUSY);

  private final ErrorReason reason;
  private final Status.Code code;
  private final boolean detailed;
  private transient Duration retryAfter;
  private transient Map<String, String> metadata = Map.of();
  private transient List<FieldViolation> violations = List.of();
  private transient String helpUrl = "";

  SluiceException(String message, ErrorReason reason, Status.Code code, boolean detailed, Throwable cause) {
    super(message, cause);
    this.reason = reason;
    this.code = code;
    this.detailed = detailed;
  }

  /** Returns what the failure of a generated stub stands for. */
  public static SluiceException of(Throwable error) {
    if (error instanceof SluiceException known) {
      return known;
    }
    Status bare = Status.fromThrowable(error);
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    ErrorReason reason = bareReason(bare.getCode());
    ErrorInfo info = null;
    Duration wait = null;
    List<FieldViolation> violations = List.of();
    String helpUrl = "";
    try {
      for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals(DOMAIN)) {
          info = detail.unpack(ErrorInfo.class);
          reason = named(info.getReason()).orElse(reason);
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          wait = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } else if (detail.is(BadRequest.class)) {
          violations =
              detail.unpack(BadRequest.class).getFieldViolationsList().stream()
                  .map(row -> new FieldViolation(row.getField(), row.getDescription()))
                  .toList();
        } else if (detail.is(Help.class) && detail.unpack(Help.class).getLinksCount() > 0) {
          helpUrl = detail.unpack(Help.class).getLinks(0).getUrl();
        }
      }
    } catch (InvalidProtocolBufferException broken) {
      return new ProtocolException("the details of a failure cannot be read");
    }
    String message = bare.getDescription() == null ? bare.getCode().name() : bare.getDescription();
    if (info == null && bare.getCode() == Status.Code.UNAVAILABLE) {
      message = "the gateway service does not answer"; // grpc's own text names addresses
    }
    var found = new SluiceException(message, reason, bare.getCode(), info != null, error);
    found.retryAfter = wait;
    found.metadata = info == null ? Map.of() : info.getMetadataMap();
    found.violations = violations;
    found.helpUrl = helpUrl;
    return found;
  }

  static SluiceException timedOut() {
    return new SluiceException(
        "the time limit of the call passed",
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
        Status.Code.DEADLINE_EXCEEDED,
        true,
        null);
  }

  static SluiceException left(Throwable cause) {
    return new SluiceException(
        "the caller left", ErrorReason.ERROR_REASON_CANCELLED, Status.Code.CANCELLED, true, cause);
  }

  static SluiceException closed(Throwable cause) {
    return new SluiceException(
        "the client is closed", ErrorReason.ERROR_REASON_CANCELLED, Status.Code.CANCELLED, true, cause);
  }

  /** Whether a failure with this reason may be gone when the same request is sent again, unchanged. */
  public static boolean isRetryable(ErrorReason reason) {
    return RETRYABLE.contains(reason);
  }

  /** Why; for failures that grpc made itself, the nearest reason. */
  public ErrorReason reason() {
    return reason;
  }

  /** The reason as ErrorInfo spells it, e.g. {@code MODEL_NOT_FOUND}. */
  public String reasonName() {
    return reason.name().substring(PREFIX.length());
  }

  /** The gRPC code. */
  public Status.Code code() {
    return code;
  }

  /** Whether the same request may succeed later, unchanged, if no content was delivered. */
  public boolean retryable() {
    return isRetryable(reason);
  }

  /** How long the server asks to wait. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** What the failure is about, e.g. {@code model} or {@code provider}. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** The fields of the request that break a rule. */
  public List<FieldViolation> violations() {
    return violations;
  }

  /** Leads to more; empty: nowhere. */
  public String helpUrl() {
    return helpUrl;
  }

  /**
   * Whether only the connection broke. A failure with Sluice's details is the answer, not an accident, unless it says that
   * this connection ends and the response goes on.
   */
  boolean broken() {
    if (detailed) {
      return reason == ErrorReason.ERROR_REASON_DRAINING || reason == ErrorReason.ERROR_REASON_WATCHER_STALLED;
    }
    // Reset streams arrive as INTERNAL, UNKNOWN or CANCELLED, depending on who reset them.
    return switch (code) {
      case UNAVAILABLE, INTERNAL, UNKNOWN, CANCELLED -> true;
      default -> false;
    };
  }

  /** A newer server may know reasons that this client does not; the code still tells the kind. */
  private static Optional<ErrorReason> named(String name) {
    return EnumSet.allOf(ErrorReason.class).stream().filter(one -> one.name().equals(PREFIX + name)).findFirst();
  }

  private static ErrorReason bareReason(Status.Code code) {
    return switch (code) {
      case UNAVAILABLE -> ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE;
      case DEADLINE_EXCEEDED -> ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED;
      case CANCELLED -> ErrorReason.ERROR_REASON_CANCELLED;
      case UNIMPLEMENTED -> ErrorReason.ERROR_REASON_UNSUPPORTED_OPERATION;
      case RESOURCE_EXHAUSTED -> ErrorReason.ERROR_REASON_TOO_MANY_IN_FLIGHT;
      case INVALID_ARGUMENT -> ErrorReason.ERROR_REASON_INVALID_REQUEST;
      case UNAUTHENTICATED -> ErrorReason.ERROR_REASON_UNAUTHENTICATED;
      case PERMISSION_DENIED -> ErrorReason.ERROR_REASON_PERMISSION_DENIED;
      case NOT_FOUND -> ErrorReason.ERROR_REASON_NOT_FOUND;
      case ALREADY_EXISTS -> ErrorReason.ERROR_REASON_ALREADY_EXISTS;
      default -> ErrorReason.ERROR_REASON_INTERNAL;
    };
  }
}
