package sluice

// The stubs are generated from ../../protos by this module's own tools (see go.mod). `buf` must be on PATH; the
// repository's environment has it in .venv/bin.

//go:generate buf generate
