package sluice.client;

import io.grpc.Status;
import sluice.error.v1.ErrorReason;

/** The gateway broke a promise of its streams: a gap in the numbers, or an end that is no end. */
public final class ProtocolException extends SluiceException {
  private static final long serialVersionUID = 1;

  ProtocolException(String message) {
    super(message, ErrorReason.ERROR_REASON_INTERNAL, Status.Code.INTERNAL, true, null);
  }
}
