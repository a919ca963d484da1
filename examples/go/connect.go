package main

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// connect opens a connection to a gateway on this machine, or behind a network that encrypts. It dials when first used.
func connect(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, PermitWithoutStream: true}),
	)
}

// reasonOf returns why a call failed as sluice.error.v1.ErrorReason spells it, e.g. CORPUS_NOT_READY, or else the gRPC
// code, for failures that gRPC made itself.
func reasonOf(err error) string {
	converted := status.Convert(err)
	for _, detail := range converted.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "sluice" {
			return info.GetReason()
		}
	}
	return converted.Code().String()
}
