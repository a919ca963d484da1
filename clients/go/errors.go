package sluice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorpb "example.com/sluice/gen/sluice/error/v1"
)

const (
	domain = "sluice"
	prefix = "ERROR_REASON_"
)

// ErrProtocol is wrapped by errors that say that the gateway broke a promise of its streams: a gap in the numbers, or an
// end that is no end.
var ErrProtocol = errors.New("the gateway broke the protocol of its streams")

// ErrClosed is wrapped by the errors of calls and streams that Client.Close ended.
var ErrClosed = errors.New("the client is closed")

// Error is a failure with a reason. Every error that this package returns is one, except io.EOF.
type Error struct {
	// Reason says why, from the closed list of the contract; for failures that gRPC made itself, the nearest one.
	Reason errorpb.ErrorReason
	// Code is the gRPC code.
	Code codes.Code
	// Message is for people, and safe to show.
	Message string
	// RetryAfter is how long the server asks to wait. 0: it does not say.
	RetryAfter time.Duration
	// Metadata names what the failure is about, e.g. "model" or "provider".
	Metadata map[string]string
	// Violations are the fields of the request that break a rule.
	Violations []FieldViolation
	// HelpURL leads to more. Empty: nowhere.
	HelpURL string

	cause    error
	detailed bool
}

// FieldViolation is one field of a request that breaks a rule: its path, and what is wrong.
type FieldViolation struct {
	Field       string
	Description string
}

// Error returns the reason and the message.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.ReasonName(), e.Message) }

// ReasonName returns the reason as ErrorInfo spells it, e.g. "MODEL_NOT_FOUND".
func (e *Error) ReasonName() string { return strings.TrimPrefix(e.Reason.String(), prefix) }

// Retryable tells whether the same request may succeed later, unchanged, if no content was delivered.
func (e *Error) Retryable() bool { return retryable[e.Reason] }

// GRPCStatus lets status.FromError and status.Code see the code and the message.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// Unwrap returns the context's error where it ended the operation, ErrClosed, ErrProtocol, or what gRPC itself failed with,
// which names the address and says why nobody answers there.
func (e *Error) Unwrap() error { return e.cause }

// broken tells whether only the connection broke. A failure with Sluice's details was decided by a service: it is the
// answer, not an accident, unless the service says that this connection ends and the response goes on.
func (e *Error) broken() bool {
	if e.detailed {
		return e.Reason == errorpb.ErrorReason_ERROR_REASON_DRAINING ||
			e.Reason == errorpb.ErrorReason_ERROR_REASON_WATCHER_STALLED
	}
	// Reset streams arrive as INTERNAL, UNKNOWN or CANCELLED, depending on who reset them.
	switch e.Code {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Canceled:
		return true
	}
	return false
}

func protocolError(format string, arguments ...any) *Error {
	return &Error{
		Reason:  errorpb.ErrorReason_ERROR_REASON_INTERNAL,
		Code:    codes.Internal,
		Message: fmt.Sprintf(format, arguments...),
		cause:   ErrProtocol,
		// It is the answer: trying again would show the same.
		detailed: true,
	}
}

// endOf returns the error of an operation that its own context ended.
func endOf(ctx context.Context) *Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return timeOut()
	}
	return &Error{
		Reason:  errorpb.ErrorReason_ERROR_REASON_CANCELLED,
		Code:    codes.Canceled,
		Message: "the caller left",
		cause:   context.Canceled,
	}
}

// closed returns the error of an operation that Client.Close ended.
func closed() *Error {
	return &Error{
		Reason:   errorpb.ErrorReason_ERROR_REASON_CANCELLED,
		Code:     codes.Canceled,
		Message:  ErrClosed.Error(),
		cause:    ErrClosed,
		detailed: true,
	}
}

func timeOut() *Error {
	return &Error{
		Reason:  errorpb.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED,
		Code:    codes.DeadlineExceeded,
		Message: "the time limit of the call passed",
		cause:   context.DeadlineExceeded,
	}
}

// failure returns what a failed call stands for.
func failure(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	converted := status.Convert(err)
	found := &Error{Reason: bare(converted.Code()), Code: converted.Code(), Message: converted.Message()}
	for _, detail := range converted.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() != domain {
				continue
			}
			found.detailed = true
			found.Metadata = detail.GetMetadata()
			// A newer server may know reasons that this client does not; the code still tells the kind.
			if number, ok := errorpb.ErrorReason_value[prefix+detail.GetReason()]; ok {
				found.Reason = errorpb.ErrorReason(number)
			}
		case *errdetails.RetryInfo:
			found.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				found.Violations = append(found.Violations, FieldViolation{violation.GetField(), violation.GetDescription()})
			}
		case *errdetails.Help:
			if links := detail.GetLinks(); len(links) > 0 {
				found.HelpURL = links[0].GetUrl()
			}
		}
	}
	if !found.detailed {
		found.cause = err
	}
	if !found.detailed && found.Code == codes.Unavailable {
		// gRPC's own text names addresses, so it is for who looks at the cause.
		found.Message = "the gateway service does not answer"
	}
	if found.Code == codes.DeadlineExceeded {
		found.cause = context.DeadlineExceeded
	}
	return found
}

// bare returns the reason for a code without details: gRPC or a proxy made it.
func bare(code codes.Code) errorpb.ErrorReason {
	switch code {
	case codes.InvalidArgument:
		return errorpb.ErrorReason_ERROR_REASON_INVALID_REQUEST
	case codes.Unauthenticated:
		return errorpb.ErrorReason_ERROR_REASON_UNAUTHENTICATED
	case codes.PermissionDenied:
		return errorpb.ErrorReason_ERROR_REASON_PERMISSION_DENIED
	case codes.NotFound:
		return errorpb.ErrorReason_ERROR_REASON_NOT_FOUND
	case codes.AlreadyExists:
		return errorpb.ErrorReason_ERROR_REASON_ALREADY_EXISTS
	case codes.Unimplemented:
		return errorpb.ErrorReason_ERROR_REASON_UNSUPPORTED_OPERATION
	case codes.DeadlineExceeded:
		return errorpb.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED
	case codes.Canceled:
		return errorpb.ErrorReason_ERROR_REASON_CANCELLED
	case codes.Unavailable:
		return errorpb.ErrorReason_ERROR_REASON_SERVICE_UNREACHABLE
	case codes.ResourceExhausted:
		return errorpb.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT
	}
	return errorpb.ErrorReason_ERROR_REASON_INTERNAL
}
