// Package httpapi is the transport that both API clients share: one API, one
// host, one [Client]. It knows HTTP and manners, and nothing of either API's
// contents.
//
// # Authentication
//
// The caller puts its credentials into [Request].Header. They reach the
// configured host only: the base URL is https (plain http to loopback only),
// paths are joined to it and cannot leave it, and redirects are never
// followed. No [Error] repeats a credential, an address of a person, a URL or
// an upstream body; see [Error].Message for what little is kept.
//
// # Limits
//
// Requests leave one at a time, never faster than Options.PerSecond, in the
// order in which they asked; those of [Client.Urgent] and those with a
// [Request].NotAfter go before the others. Three things slow the whole client,
// not just the request that met them:
//
//   - a 429 halves the pace, which then grows back evenly within a minute
//     (additive increase, multiplicative decrease), and nobody sends before the
//     server's Retry-After (seconds or an HTTP date) or Nc-Rate-Limit-Reset is
//     over, 15 minutes at most;
//   - published budgets (Nc-Rate-Limit-Limit, -Remaining, -Reset) are obeyed
//     before they are used up: once a fifth is left, the rest is spread
//     over what is left of the period;
//   - a 503 with Retry-After pauses everybody, too.
//
// Whoever has no time to wait for the end of that sets Options.Patience, and is
// told at once when to come again ([PausedError]).
//
// Processes that use one account divide its budget: each has its share
// ([Client.SetShare]), and one that starts while others use the budget begins
// with nothing saved up ([Client.Join]). All shares together never save up more than
// Options.Burst (one each at least), and earn Options.PerSecond.
//
// A 429 means "not carried out", so any method is sent again after it. A 5xx,
// a reset or a timeout leaves the outcome unknown, and so does a redirect of what
// is not repeatable, since 303 says that it was done: such a request is sent again
// only where [Request].Repeat says that this is safe; otherwise it fails at once
// with [Error].Unknown. A request that never left (no connection) may always
// be sent again.
//
// # Answers
//
// [Client.Do] hands out the body as a stream, [Client.Fetch] reads it whole.
// Both cap its size after decompression and fail when it stalls. Paging is the
// callers' business: the two APIs share nothing there.
package httpapi
