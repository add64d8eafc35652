package bridge

import (
	"bytes"
	stdlog "log"
	"net/http"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogDelivery is the message of the line that is logged for each request.
const LogDelivery = "delivery"

// storedFields is how many fields the line of a stored delivery has.
const storedFields = 9

func (b *Bridge) logDelivery(r *http.Request, d *delivery, outcome string, status int, took time.Duration) {
	level := zap.InfoLevel
	switch {
	case status >= http.StatusInternalServerError:
		level = zap.ErrorLevel
	case d.reason == wrongPath:
		level = zap.WarnLevel
	}
	log, message := b.log, LogDelivery
	if d.reason != "" && d.event.Payload == nil {
		log, message = b.floods, sampleKey(LogDelivery, d.reason)
	}
	line := log.Check(level, message)
	if line == nil {
		return
	}
	fields := make([]zap.Field, 0, storedFields)
	fields = append(fields, zap.String("outcome", outcome), zap.Int("code", status), zap.Int("bytes", d.bytes),
		zap.Duration("took", took), zap.String("remote", d.remote))
	if d.reason != "" {
		fields = append(fields, zap.String("reason", d.reason))
	}
	if d.trace.IsValid() {
		fields = append(fields, zap.Stringer("trace_id", d.trace))
	}
	if d.quarantine != "" {
		fields = append(fields, zap.String("quarantine", d.quarantine))
	}
	if d.err != nil {
		fields = append(fields, zap.Error(d.err))
	}
	if d.event.Payload != nil { // authentic: if it was not stored, the id is what there is to ask the provider about
		fields = append(fields, zap.String("id", d.event.UsableID()))
	}
	if d.receipt.Durability != "" {
		fields = append(fields, zap.String("subject", d.receipt.Subject), zap.Uint64("seq", d.receipt.Sequence),
			zap.String("durability", string(d.receipt.Durability)))
	}
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		fields = append(fields, zap.String("method", printable(r.Method, 32)),
			zap.String("path", printable(r.URL.Path, 128)))
	}
	if d.reason == wrongPath {
		fields = append(fields, zap.String("hint", "the webhook is at "+b.cfg.Path+": correct the URL at the sender, or set the bridge's path"))
	}
	line.Write(fields...)
}

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

// sampleKey is a message that is sampled by the reason too.
func sampleKey(message, reason string) string { return message + keySeparator + reason }

// unkeyed gives lines the message alone, when the sampler has decided.
type unkeyed struct{ zapcore.Core }

// Check implements [zapcore.Core].
func (c unkeyed) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	e.Message, _, _ = strings.Cut(e.Message, keySeparator)
	return c.Core.Check(e, ce)
}

// With implements [zapcore.Core].
func (c unkeyed) With(fields []zapcore.Field) zapcore.Core { return unkeyed{c.Core.With(fields)} }

// errorLog takes what an [http.Server] has to say, such as of each failed
// handshake. All of it has one message: the text holds the sender's port, and a
// sampler would take each for another.
func errorLog(log *zap.Logger) *stdlog.Logger { return stdlog.New(errorWriter{log}, "", 0) }

type errorWriter struct{ log *zap.Logger }

// Write implements [io.Writer].
func (w errorWriter) Write(p []byte) (int, error) {
	w.log.Info("http server", zap.String("error", printable(string(bytes.TrimSpace(p)), 4096)))
	return len(p), nil
}

// printable returns at most so many runes of what a sender chose, without those
// that a terminal obeys.
func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if limit--; limit < 0 {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' { // the log writes these two as \n and \t
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}
