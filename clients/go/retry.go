package sluice

import (
	"context"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how often and how long a failure of the transport is answered by another try.
type RetryPolicy struct {
	// Initial is the longest wait before the second try. Each wait is drawn between half of the limit and the limit.
	Initial time.Duration
	// Multiplier is how much the limit grows with each failure in a row.
	Multiplier float64
	// Maximum is where the limit stops growing.
	Maximum time.Duration
	// Patience is how long failures in a row may last before they are returned. 0: the first one is.
	Patience time.Duration
}

// DefaultRetryPolicy waits 0.1 to 2 seconds between tries, for 10 seconds.
var DefaultRetryPolicy = RetryPolicy{
	Initial:    100 * time.Millisecond,
	Multiplier: 2,
	Maximum:    2 * time.Second,
	Patience:   10 * time.Second,
}

// backoff counts the failures in a row of one operation.
type backoff struct {
	closed <-chan struct{} // of the client
	policy RetryPolicy
	limit  time.Duration
	since  time.Time
}

// tries returns a count that begins.
func (c *Client) tries() backoff { return backoff{closed: c.closed, policy: c.retry} }

// reset notes progress: the next failure is the first one again.
func (b *backoff) reset() { b.limit, b.since = 0, time.Time{} }

// over tells whether the client was closed.
func (b *backoff) over() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// wait waits before the next try, at least as long as the server asked for. It returns the failure if patience or the
// context's deadline do not reach that far, and the context's end, or the client's, if that comes first.
func (b *backoff) wait(ctx context.Context, found *Error) *Error {
	now := time.Now()
	if b.since.IsZero() {
		b.since, b.limit = now, b.policy.Initial
	}
	limit := min(b.limit, b.policy.Maximum)
	b.limit = time.Duration(min(float64(b.limit)*b.policy.Multiplier, float64(b.policy.Maximum)))
	delay := max(limit/2+rand.N(limit/2+1), found.RetryAfter)
	deadline, bounded := ctx.Deadline()
	if now.Add(delay).Sub(b.since) > b.policy.Patience || (bounded && !now.Add(delay).Before(deadline)) {
		return found
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-b.closed:
		return closed()
	case <-ctx.Done():
		return endOf(ctx)
	}
}

// Repeat makes a call again as long as its connection breaks and the client's policy has patience. Only for calls that
// are safe to repeat: reads, and changes that carry a request id. Errors come as *Error.
func Repeat[R any](ctx context.Context, client *Client, call func(context.Context) (R, error)) (R, error) {
	var none R
	tries := client.tries()
	for {
		result, err := call(ctx)
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return none, endOf(ctx)
		}
		if tries.over() {
			return none, closed()
		}
		found := failure(err)
		if !found.broken() {
			return none, found
		}
		if end := tries.wait(ctx, found); end != nil {
			return none, end
		}
	}
}
