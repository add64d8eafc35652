package main

import (
	"io"
	"os"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// logFlags say what is logged, and how.
type logFlags struct {
	LogLevel  zapcore.Level `enum:"debug,info,warn,error" default:"info"`
	LogFormat string        `enum:"auto,console,json" default:"auto"`
}

// logger returns what logs to w, and the queue in between, for the caller to
// close. Nothing waits for w.
func (f logFlags) logger(w io.Writer) (*zap.Logger, *lines) {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if f.LogFormat == "console" || f.LogFormat == "auto" && isTerminal(w) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00")
		if isTerminal(w) {
			config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000") // who looks on knows the day
		}
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(config)
	}
	queue := newLines(w)
	if f.LogLevel.Enabled(zapcore.WarnLevel) {
		queue.notice = func(lost uint64) []byte {
			line, err := encoder.Clone().EncodeEntry(zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "log lines are missing here: stderr was not read, or could not be written"},
				[]zapcore.Field{zap.Uint64("lines", lost)})
			if err != nil {
				return nil
			}
			return line.Bytes()
		}
	}
	go queue.run()
	// A system call for each delivery's line would be 4 % of its cost. Any other
	// line is out at once, with those before it.
	hurry := zap.Hooks(func(e zapcore.Entry) error {
		if e.Message != bridge.LogDelivery || e.Level >= zapcore.WarnLevel {
			queue.wake()
		}
		return nil
	})
	// What zap itself has to say would go to stderr past the queue.
	return zap.New(zapcore.NewCore(encoder, queue, f.LogLevel), hurry, zap.ErrorOutput(zapcore.AddSync(io.Discard))), queue
}

// newDropped counts the lines that the log lacks.
func newDropped() *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobbridge_log_dropped_total",
		Help: "Lines that the log lacks: sampled, because too many of their kind came at once; blocked, because nobody read stderr; failed, because it could not be written.",
	}, []string{"why"})
	for _, why := range []string{whySampled, whyBlocked, whyFailed} {
		c.WithLabelValues(why)
	}
	return c
}

// Why a line is not in the log.
const (
	whySampled = "sampled"
	whyBlocked = "blocked"
	whyFailed  = "failed"
)

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
