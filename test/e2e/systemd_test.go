//go:build linux

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// boot is a script that makes a machine from the folder $1 and the programs of this machine, and starts systemd there. The machine has the
// targets that systemd ships and none of the services.
const boot = `
mkdir -p "$1/etc" "$1/var/lib" "$1/var/tmp" "$1/usr/local/bin" "$1/usr/lib/systemd/system"
cp /usr/lib/systemd/system/*.target /usr/lib/systemd/system/systemd-journald.s* "$1/usr/lib/systemd/system"
for dir in etc var usr/local/bin usr/lib/systemd/system; do mount --bind "$1/$dir" "/$dir"; done
mount -o remount,bind,ro /
mount -t proc proc /proc
mount -o bind,ro /proc/sys /proc/sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for device in console kmsg; do if [ -e /dev/$device ]; then mount --bind /dev/null /dev/$device; fi; done
exec env -i container=test PATH="$PATH" /usr/lib/systemd/systemd --unit=basic.target --log-target=journal
`

// machine is a systemd that is PID 1 in its own namespaces, with its own network. Nothing is left of it after it was killed.
type machine struct {
	pid int
	dir string // where its /etc and /var are
}

// startMachine boots a machine. It skips the test where that is not allowed.
func startMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir()}
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err != nil || os.Geteuid() != 0 {
		process.Missing(t, "systemd", "needs systemd and root")
	}
	groups := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(groups); err != nil {
		groups = "/sys/fs/cgroup"
	}
	group := filepath.Join(groups, fmt.Sprint("jobbridge-test-", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		process.Missing(t, "systemd", "needs a cgroup of version 2: "+err.Error())
	}
	t.Cleanup(func() { removeGroups(t, group) })
	fd, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	var said process.Buffer
	cmd := exec.Command("sh", "-ec", boot, "boot", m.dir)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(fd.Fd()), Pdeathsig: syscall.SIGKILL, Setsid: true, Cloneflags: syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		process.Missing(t, "systemd", "needs new namespaces: "+err.Error())
	}
	m.pid = cmd.Process.Pid
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.try(`journalctl --output short-monotonic | grep -v '"msg":"delivery"' | tail -n 100`)
			t.Logf("%s%s", &said, out)
		}
		_ = cmd.Process.Kill() // and the kernel all that is in the namespace
		_ = cmd.Wait()
	})
	traffic.Eventually(t, 30*time.Second, func() error {
		if out, err := m.try("systemctl start systemd-journald.service"); err != nil {
			return fmt.Errorf("systemd does not start: %w: %s%s", err, out, &said)
		}
		return nil
	})
	return m
}

func removeGroups(t *testing.T, root string) {
	var groups []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		if err == nil {
			err = os.Remove(group)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// try runs a script on the machine for at most 50 s, and returns its output.
func (m *machine) try(script string) (string, error) {
	return command("/", []string{"PATH=" + os.Getenv("PATH"), "SYSTEMD_PAGER="}, "nsenter",
		"--all", "--target", fmt.Sprint(m.pid), "timeout", "50", "sh", "-ec", script)
}

// sh runs a script on the machine. The script must succeed and print want.
func (m *machine) sh(t *testing.T, script string, want ...string) {
	t.Helper()
	out, err := m.try(script)
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("there is no %q", w)
		}
	}
	if err != nil || t.Failed() {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
}

// TestSystemd installs the bridge under a systemd as the guide says, and lets systemd start, reload, restart and kill it. At the end, the
// numbers of the events show that no event was lost or stored twice.
func TestSystemd(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	install := regexp.MustCompile("(?s)\\*\\*With systemd\\*\\*.*?```\n(.*?)```").FindStringSubmatch(read(t, "../../deployments/README.md"))
	if install == nil {
		t.Fatal("the guide does not say how to install it")
	}
	release := filepath.Join(m.dir, "var/release")
	if err := os.CopyFS(filepath.Join(release, "deployments"), os.DirFS("../../deployments")); err != nil {
		t.Fatal(err)
	}
	if out, err := command(release, nil, "/bin/cp", process.Binary(t), "."); err != nil {
		t.Fatal(out, err)
	}
	if err := os.WriteFile(filepath.Join(release, "secret"), []byte("whsec_old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const send = "jobbridge send --secret-file /etc/jobbridge/secret "
	m.sh(t, "cd /var/release\n"+install[1])

	// It is up, and confined: what it may not do would fail from here on.
	m.sh(t, "systemctl show jobbridge.service", "ActiveState=active", "Type=notify", "NotifyAccess=main", "User=jobbridge")
	m.sh(t, `main=$(systemctl show --property MainPID --value jobbridge.service)
		stat -c '%U %a' /proc/$main /var/lib/jobbridge
		cat /proc/$main/status
		nsenter --mount --target $main sh -c '! touch /etc/x && ! touch /var/x && touch /var/lib/jobbridge/x'`,
		"jobbridge 555", "jobbridge 700", "NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000")

	// A delivery starts it.
	m.sh(t, "systemctl stop jobbridge.service; systemctl is-active jobbridge.socket jobbridge.service || true", "active\ninactive")
	m.sh(t, send+"--id first", `"sequence":1,"duplicate":false,"durability":"fsync"`)
	m.sh(t, "systemctl is-active jobbridge.service; du /var/lib/jobbridge", "active", "JOBS")

	m.sh(t, `echo whsec_new > /etc/jobbridge/secret; systemctl reload jobbridge.service
		until `+send+`; do sleep 0.1; done
		until journalctl | grep SIGHUP; do sleep 0.1; done`, `"sequence":2,`)

	// Restarts under load.
	m.sh(t, send+`--count 400 --rate 200 --concurrency 16 > /run/load & load=$!
		while kill -0 $load; do systemctl restart jobbridge.service; echo again; done
		cat /run/load; wait $load`, "again\nagain\n", "  200              400\n")

	m.sh(t, "kill -9 $(systemctl show --property MainPID --value jobbridge.service)\n"+send+"--id first", `"sequence":1,"duplicate":true`)
	m.sh(t, "systemctl show jobbridge.service", "NRestarts=1\n")

	// As long as it cannot start, deliveries wait.
	m.sh(t, `cp /etc/jobbridge/secret /run/secret; : > /etc/jobbridge/secret
		! systemctl restart jobbridge.service
		jobbridge send --secret-file /run/secret & send=$!
		until [ $(systemctl show --property NRestarts --value jobbridge.service) -gt 5 ]; do sleep 0.1; done
		cat /run/secret > /etc/jobbridge/secret
		wait $send`, `"sequence":403,"duplicate":false`)

	m.sh(t, `systemctl stop jobbridge.socket jobbridge.service; systemctl show jobbridge.service
		! `+send, "ActiveState=inactive", "Result=success", "ExecMainCode=1\n", "ExecMainStatus=0\n", "connection refused")
}
