package ingress

import (
	"net/http"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
)

// LogDelivery is the message of the line that is logged for each request.
const LogDelivery = "delivery"

// storedFields is how many fields the line of a stored delivery has.
const storedFields = 9

func (in *Ingress) logDelivery(r *http.Request, d *delivery, outcome string, status int, took time.Duration) {
	level := zap.InfoLevel
	switch {
	case status >= http.StatusInternalServerError:
		level = zap.ErrorLevel
	case d.reason == wrongPath:
		level = zap.WarnLevel
	}
	log, message := in.log, LogDelivery
	if d.reason != "" && d.event.Payload == nil {
		log, message = in.floods, logging.SampleKey(LogDelivery, d.reason)
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
		fields = append(fields, zap.String("method", event.Printable(r.Method, 32)),
			zap.String("path", event.Printable(r.URL.Path, 128)))
	}
	if d.reason == wrongPath {
		fields = append(fields, zap.String("hint", "the webhook is at "+in.cfg.Path+": correct the URL at the sender, or set the bridge's path"))
	}
	line.Write(fields...)
}
