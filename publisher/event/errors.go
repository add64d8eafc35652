package event

import (
	"errors"
	"strings"
)

// The classes of error when an event is stored. Each tells the caller what to do
// without reading the text; [errors.As] reaches the cause.
var (
	// ErrUnavailable is returned when the event was not confirmed in time. The
	// event may or may not be stored; sending it again is safe.
	ErrUnavailable = errors.New("storage unavailable")
	// ErrUnknown is returned together with ErrUnavailable when the event was
	// handed over and no answer came: it may be stored.
	ErrUnknown = errors.New("outcome unknown")
	// ErrFull is returned when there is no room for the event.
	ErrFull = errors.New("storage full")
	// ErrTooLarge is returned when the event exceeds a size that the server or
	// the stream accepts: it will never be stored as it is.
	ErrTooLarge = errors.New("event too large")
	// ErrMisconfigured is returned when the stream exists in a form that cannot
	// accept the event, or the connection may not publish. An operator has to
	// change something.
	ErrMisconfigured = errors.New("stream misconfigured")
)

// JetStream error codes, from the server's errors.json.
const (
	codeInsufficientResources = 10002
	codeStorageExceeded       = 10047
	codeMessageTooLarge       = 10054
	codeStreamMismatch        = 10060
	codeStoreFailed           = 10077
	codeHeaderTooLarge        = 10097
	codeStreamSealed          = 10109
)

// ClassOfCode returns the class of a JetStream error, given its err_code and its
// description. An unknown code is [ErrUnavailable]: trying again may help.
func ClassOfCode(code int, description string) error {
	switch code {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return ErrTooLarge
	case codeInsufficientResources, codeStorageExceeded:
		return ErrFull
	case codeStoreFailed:
		// The server reports several limits under this code; only the text
		// differs (server/store.go, ErrMaxMsgs and its neighbours).
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
