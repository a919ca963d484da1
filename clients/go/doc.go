// Package sluice is a client of a Sluice gateway: streams of single, numbered events that outlive their connection, and
// typed errors.
//
// Who repeats what. A response is identified by its request id, so a stream that breaks before `Accepted` is asked for
// again with the same id, and the gateway attaches it to the same response. After `Accepted` a broken stream goes on by
// ResumeChat from the next event; for that the client asks for a detach_grace of 30 seconds. A failure that a service
// decided on is never repeated: it is returned.
//
// Contexts. A context's deadline holds for the whole operation, every try included, and is asked of the gateway as
// max_duration, too. When the context is cancelled, the response is cancelled with it.
package sluice
