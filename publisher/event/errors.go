package event

import (
	"errors"
	"strings"
)

// The classes of errors when an event is stored. Each of them tells the caller what to do.
var (
	// ErrUnavailable is returned when the event was not acknowledged in time. It is safe to send the event again.
	ErrUnavailable = errors.New("storage unavailable")
	// ErrUnknown is returned together with ErrUnavailable when the event may be stored, because it was sent or written but
	// not acknowledged.
	ErrUnknown = errors.New("outcome unknown")
	// ErrFull is returned when there is no room for the event.
	ErrFull = errors.New("storage full")
	// ErrTooLarge is returned when the event is larger than the journal, the server or the stream accepts. Sending it again
	// does not help.
	ErrTooLarge = errors.New("event too large")
	// ErrMisconfigured is returned when the stream is missing or configured in a way that cannot accept the event, or when
	// the user may not publish. An operator must change something.
	ErrMisconfigured = errors.New("stream misconfigured")
)

// The error codes of JetStream, from errors.json in nats-server.
const (
	codeInsufficientResources = 10002
	codeStorageExceeded       = 10047
	codeMessageTooLarge       = 10054
	codeStreamMismatch        = 10060
	codeStoreFailed           = 10077
	codeHeaderTooLarge        = 10097
	codeStreamSealed          = 10109
)

// ClassOfCode returns the class of a JetStream error with this err_code and description. The class of an unknown code is
// [ErrUnavailable], because a retry may help.
func ClassOfCode(code int, description string) error {
	switch code {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return ErrTooLarge
	case codeInsufficientResources, codeStorageExceeded:
		return ErrFull
	case codeStoreFailed:
		// The server reports several limits with this code and different texts (ErrMaxMsgs and others in server/store.go).
		switch {
		case strings.Contains(description, "message too large"):
			return ErrTooLarge
		case strings.Contains(description, "maximum"):
			return ErrFull
		}
	case codeStreamMismatch, codeStreamSealed:
		return ErrMisconfigured
	}
	return ErrUnavailable
}
