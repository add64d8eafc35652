package ingress

import (
	"net/http"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/publisher/event"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// LogDelivery is the message of the log line of each request.
const LogDelivery = "delivery"

// storedFields is the number of fields in the log line of a stored delivery.
const storedFields = 9

// logDelivery writes the log line of a request. The line of a request that is not authentic is sampled, because anybody
// can send one.
func (in *Ingress) logDelivery(r *http.Request, d *delivery, took time.Duration, traceID trace.TraceID) {
	code, reason := d.status(), d.refusal.reason
	level := zap.InfoLevel
	switch {
	case code >= http.StatusInternalServerError:
		level = zap.ErrorLevel
	case reason == wrongPath:
		level = zap.WarnLevel
	}
	log, message := in.log, LogDelivery
	if reason != "" && d.signed.event.Payload == nil {
		log, message = in.sampled, logging.SampleKey(LogDelivery, reason)
	}
	line := log.Check(level, message)
	if line == nil {
		return
	}
	fields := make([]zap.Field, 0, storedFields)
	fields = append(fields, zap.String("outcome", d.outcome()), zap.Int("code", code), zap.Int("bytes", d.bytes),
		zap.Duration("took", took), zap.String("remote", d.remote))
	if reason != "" {
		fields = append(fields, zap.String("reason", reason))
	}
	if traceID.IsValid() {
		fields = append(fields, zap.Stringer("trace_id", traceID))
	}
	if d.quarantine != "" {
		fields = append(fields, zap.String("quarantine", d.quarantine))
	}
	if d.refusal.err != nil {
		fields = append(fields, zap.Error(d.refusal.err))
	}
	if d.signed.event.Payload != nil { // authentic; the id serves to ask the provider about an event that was not stored
		fields = append(fields, zap.String("id", d.signed.event.UsableID()))
	}
	if d.receipt.Durability != "" {
		fields = append(fields, zap.String("subject", d.receipt.Subject), zap.Uint64("seq", d.receipt.Sequence),
			zap.String("durability", string(d.receipt.Durability)))
	}
	if code == http.StatusNotFound || code == http.StatusMethodNotAllowed {
		fields = append(fields, zap.String("method", event.Printable(r.Method, 32)),
			zap.String("path", event.Printable(r.URL.Path, 128)))
	}
	if reason == wrongPath {
		fields = append(fields, zap.String("hint",
			"the webhook is at "+in.cfg.Path+": correct the URL at the sender, or set the bridge's path"))
	}
	line.Write(fields...)
}
