// Package logging keeps the log readable, whatever strangers send: it samples the lines
// that anybody can cause.
//
// It leaves to its callers what is logged, and at which level.
package logging

import (
	"bytes"
	stdlog "log"
	"slices"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Sampled returns a logger for lines that anybody can cause. In each second it writes the
// first 100 lines of one message and level, and then one line in 100. dropped is called
// for each line that is not written. It may be nil.
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

// keySeparator ends the message in a sample key.
const keySeparator = "\x00"

// SampleKey returns a message that [Sampled] counts separately for each reason, so that
// many lines with one reason do not keep a line with another reason from being written.
// Only the message is written.
func SampleKey(message, reason string) string { return message + keySeparator + reason }

// unkeyed removes the reason from a sample key, after the sampler has decided.
type unkeyed struct{ zapcore.Core }

// Check implements [zapcore.Core].
func (c unkeyed) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	e.Message, _, _ = strings.Cut(e.Message, keySeparator)
	return c.Core.Check(e, ce)
}

// With implements [zapcore.Core].
func (c unkeyed) With(fields []zapcore.Field) zapcore.Core { return unkeyed{c.Core.With(fields)} }

// Translated returns a logger that translates the texts of warnings and errors.
func Translated(log *zap.Logger, translate func(string) string) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return translated{core, translate} }))
}

type translated struct {
	zapcore.Core
	translate func(string) string
}

// Check implements [zapcore.Core].
func (c translated) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level < zapcore.WarnLevel {
		return c.Core.Check(e, ce)
	}
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements [zapcore.Core].
func (c translated) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message = c.translate(e.Message)
	fields = slices.Clone(fields)
	for i, f := range fields {
		switch err, isError := f.Interface.(error); {
		case f.Type == zapcore.StringType:
			fields[i].String = c.translate(f.String)
		case f.Type == zapcore.ErrorType && isError:
			fields[i] = zap.String(f.Key, c.translate(err.Error()))
		}
	}
	if line := c.Core.Check(e, nil); line != nil { // only Check reaches what is below a core of [zap.Hooks]
		line.Write(fields...)
	}
	return nil
}

// With implements [zapcore.Core].
func (c translated) With(fields []zapcore.Field) zapcore.Core {
	return translated{c.Core.With(fields), c.translate}
}

// ErrorLog returns a value for the field ErrorLog of an [net/http.Server]. The server logs
// for example each handshake that fails. All its lines get one message and the text as a
// field. The text contains the sender's port, so as messages all texts would differ, and a
// sampler would write them all.
func ErrorLog(log *zap.Logger) *stdlog.Logger { return stdlog.New(errorWriter{log}, "", 0) }

// errorWriter writes each line to a zap logger.
type errorWriter struct{ log *zap.Logger }

// Write implements [io.Writer].
func (w errorWriter) Write(p []byte) (int, error) {
	w.log.Info("http server", zap.String("error", event.Printable(string(bytes.TrimSpace(p)), 4096)))
	return len(p), nil
}
