package logging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestSampled: of each message and level the first 100 lines are written, and then one
// in 100. A reason that is part of the key is counted on its own and is not written.
func TestSampled(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	dropped := 0
	log := logging.Sampled(zap.New(core), func() { dropped++ }).With(zap.String("field", "kept"))
	write := func(n int, level zapcore.Level, message string) {
		for range n {
			if line := log.Check(level, message); line != nil {
				line.Write()
			}
		}
	}
	// All within one second, or the sampler counts from the start once more.
	write(100, zap.InfoLevel, logging.SampleKey("refused", "mismatch"))
	write(150, zap.InfoLevel, logging.SampleKey("refused", "mismatch"))
	write(1, zap.InfoLevel, logging.SampleKey("refused", "too_old"))
	write(1, zap.WarnLevel, logging.SampleKey("refused", "mismatch"))
	write(1, zap.InfoLevel, "refused")
	written := logs.Len()
	if written < 104 || written+dropped != 253 || dropped == 0 {
		t.Errorf("%d lines written, %d dropped", written, dropped)
	}
	if n := logs.FilterMessage("refused").FilterField(zap.String("field", "kept")).Len(); n != written {
		t.Errorf("%d of %d lines have the message and the field", n, written)
	}
	if n := logs.FilterLevelExact(zap.WarnLevel).Len(); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// TestSampledWithoutHook: nobody needs to count what is dropped.
func TestSampledWithoutHook(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	log := logging.Sampled(zap.New(core), nil)
	for range 200 {
		log.Info("line")
		log.Debug("line") // below the level
	}
	if n := logs.Len(); n < 100 || n > 199 {
		t.Errorf("%d lines", n)
	}
}

// TestErrorLog: the lines of a server have one message, and a text that can be printed.
func TestErrorLog(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	server := logging.ErrorLog(zap.New(core))
	for text, want := range map[string]string{
		"http: TLS handshake error from 192.0.2.1:5: EOF\n": "http: TLS handshake error from 192.0.2.1:5: EOF",
		"http: bad \x1b[31m \u202ename\n":                   "http: bad \ufffd[31m \ufffdname",
		strings.Repeat("x", 5000):                           strings.Repeat("x", 4096) + "…",
	} {
		server.Print(text)
		lines := logs.TakeAll()
		if len(lines) != 1 || lines[0].Message != "http server" || lines[0].Level != zap.InfoLevel || lines[0].ContextMap()["error"] != want {
			t.Error(fmt.Sprintf("%.100q: ", text), lines)
		}
	}
}

// TestTranslated: the message, the texts and the error of a warning are translated, a line of information is not.
func TestTranslated(t *testing.T) {
	t.Parallel()
	core, lines := observer.New(zap.InfoLevel)
	log := logging.Translated(zap.New(core, zap.Hooks(func(zapcore.Entry) error { return nil })),
		strings.ToUpper).With(zap.String("part", "a"))
	log.Info("information", zap.String("text", "b"))
	log.Warn("warning", zap.String("text", "b"), zap.Error(errors.New("c")), zap.Int("number", 1))
	log.Debug("debug")
	all := lines.All()
	if len(all) != 2 || all[0].Message != "information" || all[0].ContextMap()["text"] != "b" {
		t.Fatal(all)
	}
	got := all[1].ContextMap()
	if all[1].Message != "WARNING" || got["text"] != "B" || got["error"] != "C" || got["number"] != int64(1) || got["part"] != "a" {
		t.Error(all[1].Message, got)
	}
}
