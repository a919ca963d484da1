package sluice

import errorpb "example.com/sluice/gen/sluice/error/v1"

// retryable holds the reasons that the contract calls retryable. The conformance suite compares it with the gateway's.
var retryable = map[errorpb.ErrorReason]bool{
	errorpb.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT:      true,
	errorpb.ErrorReason_ERROR_REASON_DRAINING:                true,
	errorpb.ErrorReason_ERROR_REASON_SERVICE_UNREACHABLE:     true,
	errorpb.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED:   true,
	errorpb.ErrorReason_ERROR_REASON_UPSTREAM_OVERLOADED:     true,
	errorpb.ErrorReason_ERROR_REASON_UPSTREAM_UNAVAILABLE:    true,
	errorpb.ErrorReason_ERROR_REASON_UPSTREAM_TIMEOUT:        true,
	errorpb.ErrorReason_ERROR_REASON_UPSTREAM_PROTOCOL_ERROR: true,
	errorpb.ErrorReason_ERROR_REASON_EMPTY_RESPONSE:          true,
	errorpb.ErrorReason_ERROR_REASON_CIRCUIT_OPEN:            true,
	errorpb.ErrorReason_ERROR_REASON_OUTPUT_INVALID:          true,
	errorpb.ErrorReason_ERROR_REASON_WATCHER_STALLED:         true,
	errorpb.ErrorReason_ERROR_REASON_GROUNDING_UNAVAILABLE:   true,
	errorpb.ErrorReason_ERROR_REASON_CORPUS_BUSY:             true,
	errorpb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE:       true,
	errorpb.ErrorReason_ERROR_REASON_CONVERSATION_BUSY:       true,
}

// Retryable tells whether a failure with this reason may be gone when the same request is sent again, unchanged.
func Retryable(reason errorpb.ErrorReason) bool { return retryable[reason] }
