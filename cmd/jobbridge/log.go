package main

import (
	"io"
	"os"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// logFlags say what is logged, and how.
type logFlags struct {
	LogLevel  zapcore.Level `help:"Least level that is logged: ${enum}." enum:"debug,info,warn,error" default:"info"`
	LogFormat string        `help:"Form of the log on stderr: ${enum}; auto is console on a terminal." enum:"auto,console,json" default:"auto"`
}

func (f logFlags) logger(w io.Writer) *zap.Logger {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	// Without its Sync: pipes and systemd's journal, which are most of what stderr
	// can be, refuse it, and zap would write that after each line.
	encoder, sink := zapcore.NewJSONEncoder(config), zapcore.Lock(zapcore.AddSync(struct{ io.Writer }{w}))
	if f.LogFormat == "console" || f.LogFormat == "auto" && isTerminal(w) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(config)
	}
	if isTerminal(w) {
		return zap.New(zapcore.NewCore(encoder, sink, f.LogLevel))
	}
	// A system call for each delivery's line would be 4 % of its cost. Any other
	// line is out at once, with those before it.
	buffer := &zapcore.BufferedWriteSyncer{WS: sink, FlushInterval: 100 * time.Millisecond}
	return zap.New(zapcore.NewCore(encoder, buffer, f.LogLevel), zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == bridge.LogDelivery && e.Level < zapcore.WarnLevel {
			return nil
		}
		return buffer.Sync()
	}))
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
