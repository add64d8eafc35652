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

// logFlags say what is logged, and in which form.
type logFlags struct {
	LogLevel  zapcore.Level `enum:"debug,info,warn,error" default:"info"`
	LogFormat string        `enum:"auto,console,json" default:"auto"`
}

// logger returns a logger that writes to w through a queue. The caller closes the queue.
func (f logFlags) logger(w io.Writer) (*zap.Logger, *lines) {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if f.LogFormat == "console" || f.LogFormat == "auto" && isTerminal(w) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00")
		if isTerminal(w) {
			config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000") // the reader knows the day
		}
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(config)
	}
	queue := newLines(w)
	if f.LogLevel.Enabled(zapcore.WarnLevel) {
		queue.notice = func(lost uint64) []byte {
			line, err := encoder.Clone().EncodeEntry(zapcore.Entry{
				Level: zapcore.WarnLevel, Time: time.Now(), Message: "log lines are missing here: stderr was not read, or could not be written",
			}, []zapcore.Field{zap.Uint64("lines", lost)})
			if err != nil {
				return nil
			}
			return line.Bytes()
		}
	}
	go queue.run()
	// A system call for the line of each delivery would be 4 % of the cost of a delivery. Every other line is written at once,
	// together with the lines before it.
	wake := zap.Hooks(func(e zapcore.Entry) error {
		if e.Message != bridge.LogDelivery || e.Level >= zapcore.WarnLevel {
			queue.wake()
		}
		return nil
	})
	return zap.New(zapcore.NewCore(encoder, queue, f.LogLevel), wake, zap.ErrorOutput(zapcore.AddSync(io.Discard))), queue
}

// The reasons why a line is not in the log.
const (
	whySampled = "sampled"
	whyBlocked = "blocked"
	whyFailed  = "failed"
)

// newDropped returns the metric of lines that are missing in the log.
func newDropped() *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobbridge_log_dropped_total",
		Help: "Lines that are missing in the log: sampled, because too many of their kind came at once; blocked, because nobody read " +
			"stderr; failed, because they could not be written.",
	}, []string{"why"})
	for _, why := range []string{whySampled, whyBlocked, whyFailed} {
		c.WithLabelValues(why)
	}
	return c
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
