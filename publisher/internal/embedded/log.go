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

// serverLogger writes the server's log lines to the bridge's logger. Notices become debug lines. Lines that a stranger on the
// network can cause are sampled by their kind and shortened. The last fatal error is stored, because the server would exit the
// process or ignore it.
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

// maxLine is the largest number of characters of a server's line that are logged.
const maxLine = 300

// write logs a line. The sampler counts lines with equal messages. So the message is at first the format of the line, without
// the client's address at its beginning.
func (l *serverLogger) write(level zapcore.Level, format string, v []any) {
	kind := format[strings.LastIndex(format, " - ")+1:]
	if len(v) == 0 { // the text is complete, and may quote what a stranger sent
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
		return // the operator chose to write them in plain text
	}
	l.write(zap.WarnLevel, format, v)
}

func (l *serverLogger) Errorf(format string, v ...any)  { l.write(zap.ErrorLevel, format, v) }
func (l *serverLogger) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l *serverLogger) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l *serverLogger) Tracef(format string, v ...any)  { l.log.Debugf(format, v...) }
