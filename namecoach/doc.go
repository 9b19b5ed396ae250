// Package namecoach is a client of the NameCoach Integration API v5: every
// documented endpoint, typed, list answers decoded as a stream.
//
// # Authentication
//
// An account has one access token, sent raw in the Authorization header (no
// "Bearer"). It goes to the configured host only and appears in no error.
//
// # Limits
//
// NameCoach counts requests per token, all resources together: about 1000 in 15
// minutes. The number of requests is what is scarce, so ask for large pages and
// for many people at once. The client never sends more than
// Options.RequestsPer15Minutes in any 15 minutes, obeys the published
// Nc-Rate-Limit headers before they are used up, and waits out a 429.
//
// # Paging
//
// The document says that page and per_page are "ignored if filters are present", and
// still pages such answers. The client asks for what [Filter] says and no more: it
// never follows next_page_url, which names another version and drops the
// filters. Whoever pages compares the distinct rows with [Meta].TotalCount and
// asks the next page with the same filters; rows have neither an id nor an update time.
//
// # Rows
//
// One row is one person in one event. What the document gives two names
// (recording_link, recording_url) or none is brought to one form in
// [Participant]; unknown scalars are kept, an unexpected shape is an error and
// never "empty".
//
// # Writing
//
// [Client.Create], [Client.Update] and the deletions change what people recorded or
// even have them telephoned. They are sent once: a write whose outcome is unknown
// (httpapi.Error.Unknown) is not repeated.
package namecoach
