package interop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/test/process"
)

// TestCommandsOfAWorker runs the commands that README and the guide give to the owner of a worker, without a name and with a name of the
// auth file. Each command shows what is stored.
func TestCommandsOfAWorker(t *testing.T) {
	t.Parallel()
	process.Require(t, "nats")
	for _, named := range []bool{false, true} {
		t.Run("named="+strconv.FormatBool(named), func(t *testing.T) {
			t.Parallel()
			o := process.Options{Env: []string{"SYNC_WEBHOOK_SECRET=" + secret}}
			var login, tail []string
			if named {
				file := filepath.Join(t.TempDir(), "workers")
				if err := os.WriteFile(file, []byte("ann:annspassword\nbob:bobspassword\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				o.Args = []string{"--nats-auth-file", file}
				login, tail = []string{"--user", "bob", "--password", "bobspassword"}, []string{"--auth-file", file}
			}
			b := process.Start(t, o)
			t.Cleanup(func() { b.Stop(t) })
			all := stored(tap(t, b).sendAll(t))
			count := strconv.Itoa(len(all))
			for _, command := range []string{
				"sub --stream=JOBS --all --raw --count=" + count,
				"sub job.> --stream=JOBS --all --raw --count=" + count,
				"consumer next JOBS late --raw --ack --count=" + count,
			} {
				if strings.HasPrefix(command, "consumer next") {
					run(t, b, append([]string{"consumer", "add", "JOBS", "late", "--pull", "--ack=explicit", "--deliver=all", "--defaults"}, login...))
				}
				out := run(t, b, append(strings.Fields(command), login...))
				for _, event := range all {
					if !bytes.Contains(out, event.Data) {
						t.Errorf("nats %s does not show %s", command, event)
					}
				}
			}
			for _, row := range [][2]string{
				{"stream info JOBS --json", `"messages": ` + count},
				{"stream ls --names", "JOBS"},
				{"consumer info JOBS late --json", `"num_ack_pending": 0`},
				{"consumer ls JOBS --names", "late"},
				{"consumer add JOBS yesterday --pull --ack=explicit --deliver=24h --defaults", "yesterday"},
				{"consumer next JOBS yesterday --count 1 --raw --ack", string(all[0].Data)},
				{"consumer report JOBS", "yesterday"},
				{"consumer rm JOBS late --force", ""},
			} {
				if out := run(t, b, append(strings.Fields(row[0]), login...)); !bytes.Contains(out, []byte(row[1])) {
					t.Errorf("nats %s: want %s\n%s", row[0], row[1], out)
				}
			}
			view(t, b, login, all)
			args := append([]string{"tail", "job.>", "--nats-url", b.NATS, "--from-start", "--count", count}, tail...)
			out, err := bridgeCommand(t, args...).Output()
			if err != nil {
				t.Fatalf("tail: %v\n%s", err, out)
			}
			if n := strings.Count(string(out), "job."); n < len(all) {
				t.Errorf("tail --from-start shows %d of %d events\n%s", n, len(all), out)
			}
		})
	}
}

// run runs a nats command and returns its output. It fails the test if the command fails.
func run(t *testing.T, b *process.Bridge, args []string) []byte {
	t.Helper()
	cmd := natsCommand(t, b, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nats %s: %v\n%s%s", args, err, out, &stderr)
	}
	return out
}

// view runs nats stream view, which needs a terminal.
func view(t *testing.T, b *process.Bridge, login []string, all []received) {
	t.Helper()
	process.Require(t, "script")
	nats := natsCommand(t, b, append([]string{"stream", "view", "JOBS", "25", "--raw"}, login...)...)
	cmd := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command", strings.Join(nats.Args, " "), "/dev/null")
	cmd.Env = nats.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nats stream view: %v\n%s", err, out)
	}
	for _, event := range all {
		if !bytes.Contains(out, event.Data) {
			t.Errorf("nats stream view does not show %s\n%s", event, out)
		}
	}
}
