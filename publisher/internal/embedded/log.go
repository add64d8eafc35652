package embedded

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// serverLogger writes the server's log lines to the bridge's logger. Notices become
// debug lines. Lines that a stranger on the network can cause are sampled by their
// kind and cut. The last fatal error is stored, because the server would exit on it
// or drop it.
type serverLogger struct {
	log     *zap.SugaredLogger
	sampled *zap.Logger
	mu      sync.Mutex
	last    error // the last fatal error; guarded by mu
}

func newServerLogger(log *zap.Logger, onSampled func()) *serverLogger {
	sampled := log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 10, 100, zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
			if d&zapcore.LogDropped != 0 && onSampled != nil {
				onSampled()
			}
		}))
	}))
	return &serverLogger{log: log.Sugar(), sampled: sampled}
}

// maxLine is the number of characters of a server log line that are logged.
const maxLine = 300

// write logs a line. The sampler counts by message, so the message is first the
// line's format, without the client's address in front.
func (l *serverLogger) write(level zapcore.Level, format string, v []any) {
	kind := format[strings.LastIndex(format, " - ")+1:]
	if len(v) == 0 { // finished text, which may quote what a stranger sent
		kind = "text"
	}
	if line := l.sampled.Check(level, strings.TrimPrefix(kind, "- ")); line != nil {
		line.Message = "NATS server"
		line.Write(zap.String("line", event.Printable(fmt.Sprintf(format, v...), maxLine-1)))
	}
}

func (l *serverLogger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *serverLogger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Errorf(format, v...)
}

func (l *serverLogger) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords") {
		return // the operator's file holds them in plain text, the others are random
	}
	l.write(zap.WarnLevel, format, v)
}

func (l *serverLogger) Errorf(format string, v ...any)  { l.write(zap.ErrorLevel, format, v) }
func (l *serverLogger) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l *serverLogger) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l *serverLogger) Tracef(format string, v ...any)  { l.log.Debugf(format, v...) }
