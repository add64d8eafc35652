// Package logging keeps the log readable whatever strangers send: it samples lines
// that anybody can cause, and removes what a terminal would obey.
//
// It leaves to its callers what is logged, and at which level.
package logging

import (
	"bytes"
	stdlog "log"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Sampled returns a logger for lines that anybody can cause: of each message and
// level, 100 a second and then one in 100. dropped is called for each of the
// others; it may be nil.
func Sampled(log *zap.Logger, dropped func()) *zap.Logger {
	hook := zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
		if d&zapcore.LogDropped != 0 && dropped != nil {
			dropped()
		}
	})
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(unkeyed{core}, time.Second, 100, 100, hook)
	}))
}

// keySeparator ends a message within what it is sampled by: one reason must not
// use up the lines of another.
const keySeparator = "\x00"

// SampleKey returns a message that [Sampled] counts separately for each reason.
func SampleKey(message, reason string) string { return message + keySeparator + reason }

// unkeyed gives lines the message alone, when the sampler has decided.
type unkeyed struct{ zapcore.Core }

// Check implements [zapcore.Core].
func (c unkeyed) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	e.Message, _, _ = strings.Cut(e.Message, keySeparator)
	return c.Core.Check(e, ce)
}

// With implements [zapcore.Core].
func (c unkeyed) With(fields []zapcore.Field) zapcore.Core { return unkeyed{c.Core.With(fields)} }

// ErrorLog returns the ErrorLog of an [net/http.Server], which logs for example each
// failed handshake. All its lines have one message: the text holds the sender's
// port, so a sampler would take each text for another message.
func ErrorLog(log *zap.Logger) *stdlog.Logger { return stdlog.New(errorWriter{log}, "", 0) }

type errorWriter struct{ log *zap.Logger }

// Write implements [io.Writer].
func (w errorWriter) Write(p []byte) (int, error) {
	w.log.Info("http server", zap.String("error", event.Printable(string(bytes.TrimSpace(p)), 4096)))
	return len(p), nil
}
