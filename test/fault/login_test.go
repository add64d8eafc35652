package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/authority"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// delivers relays events through b, and checks that the remote stream has them.
func delivers(t *testing.T, b *bridged, nc *nats.Conn) {
	t.Helper()
	b.awaitState(t, "ready", "")
	l := b.load(t, traffic.Options{Senders: 2, Jobs: 2})
	l.Wait()
	b.awaitForwarded(t)
	l.Check(t, nc, "JOBS")
}

func createStream(t *testing.T, nc *nats.Conn) {
	t.Helper()
	natsd.CreateStream(t, must[jetstream.JetStream](t)(jetstream.New(nc)), 1)
}

// TestTLS connects to a NATS server whose certificate is signed by a private authority, and which asks for a client certificate. The
// connection fails without the authority, and without the client certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := authority.New(t, "ca"), authority.New(t, "other")
	crt, key := ca.Files("127.0.0.1")
	clientCrt, clientKey := ca.Files("bridge")
	strangerCrt, strangerKey := other.Files("stranger")
	srv := natsd.Start(t, natsd.Options{Args: []string{"--tls", "--tlscert", crt, "--tlskey", key, "--tlsverify", "--tlscacert", ca.File()}})
	nc := must[*nats.Conn](t)(nats.Connect(srv.URL, nats.RootCAs(ca.File()), nats.ClientCert(clientCrt, clientKey)))
	t.Cleanup(nc.Close)
	createStream(t, nc)
	url := strings.Replace(srv.URL, "nats://", "tls://", 1)
	good := []string{"--nats-url", url, "--nats-ca", ca.File(), "--nats-cert", clientCrt, "--nats-key", clientKey}
	delivers(t, start(t, process.Options{Args: good}), nc)
	for _, r := range []struct {
		name string
		args []string
		want string
	}{
		{"an authority that is not trusted", []string{"--nats-url", url, "--nats-cert", clientCrt, "--nats-key", clientKey}, "certificate"},
		{"another authority", []string{"--nats-url", url, "--nats-ca", other.File(),
			"--nats-cert", clientCrt, "--nats-key", clientKey}, "certificate"},
		{"no client certificate", []string{"--nats-url", url, "--nats-ca", ca.File()}, "certificate required"},
		{"a stranger's", []string{"--nats-url", url, "--nats-ca", ca.File(), "--nats-cert", strangerCrt,
			"--nats-key", strangerKey}, "certificate"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			start(t, process.Options{Args: r.args}).awaitState(t, "journaling", r.want)
		})
	}
	t.Run("rotated", func(t *testing.T) {
		t.Parallel()
		// The files hold a stranger's certificate first; then the right one.
		dir := t.TempDir()
		crt, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
		swap := func(from, to string) { write(t, to, string(must[[]byte](t)(os.ReadFile(from)))) }
		swap(strangerCrt, crt)
		swap(strangerKey, key)
		b := start(t, process.Options{Args: []string{"--nats-url", url, "--nats-ca", ca.File(), "--nats-cert", crt, "--nats-key", key}})
		b.awaitState(t, "journaling", "certificate")
		swap(clientCrt, crt)
		swap(clientKey, key)
		b.awaitState(t, "ready", "")
	})
}

// TestTLSFirst connects to a server that expects the TLS handshake first. Without --nats-tls-first, readiness and the commands name that
// flag within 5 s. With the flag at a server that does not expect it, they say to unset it (case C8).
func TestTLSFirst(t *testing.T) {
	t.Parallel()
	ca := authority.New(t, "ca")
	crt, key := ca.Files("127.0.0.1")
	pem := ca.File()
	first := natsd.Start(t,
		natsd.Options{Conf: fmt.Sprintf("jetstream {}\ntls { cert_file: %q, key_file: %q, handshake_first: true }", crt, key), TLSFirst: true})
	nc := must[*nats.Conn](t)(nats.Connect(first.URL, nats.RootCAs(pem), nats.TLSHandshakeFirst()))
	t.Cleanup(nc.Close)
	createStream(t, nc)
	delivers(t, start(t, process.Options{Args: []string{"--nats-url", first.URL, "--nats-ca", pem, "--nats-tls-first"}}), nc)
	for _, scheme := range []string{"nats://", "tls://"} {
		flags := []string{"--nats-url", strings.Replace(first.URL, "nats://", scheme, 1), "--nats-ca", pem}
		start(t, process.Options{Args: append(flags, "--nats-tls-first")}).awaitState(t, "ready", "")
		begin := time.Now()
		start(t, process.Options{Args: flags}).awaitState(t, "journaling", "--nats-tls-first")
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the flag was named after %s", took)
		}
		_, stderr, code := process.RunIn(t, t.TempDir(), process.Environ(), nil, append([]string{"stream", "audit"}, flags...)...)
		if code != 1 || !strings.Contains(stderr, "--nats-tls-first") {
			t.Errorf("audit: exit %d: %s", code, stderr)
		}
	}
	later := natsd.Start(t, natsd.Options{Conf: fmt.Sprintf("jetstream {}\ntls { cert_file: %q, key_file: %q }", crt, key)})
	b := start(t, process.Options{Args: []string{"--nats-url", later.URL, "--nats-ca", pem, "--nats-tls-first"}})
	b.awaitState(t, "journaling", "unset --nats-tls-first")
}

// TestNkey logs in with an nkey.
func TestNkey(t *testing.T) {
	t.Parallel()
	user := must[nkeys.KeyPair](t)(nkeys.CreateUser())
	seed := filepath.Join(t.TempDir(), "seed")
	write(t, seed, string(must[[]byte](t)(user.Seed())))
	srv := natsd.Start(t,
		natsd.Options{Conf: fmt.Sprintf("accounts { A { jetstream: enabled, users: [ { nkey: %s } ] } }\njetstream { }\n",
			must[string](t)(user.PublicKey()))})
	option := must[nats.Option](t)(nats.NkeyOptionFromSeed(seed))
	nc := must[*nats.Conn](t)(nats.Connect(srv.URL, option))
	t.Cleanup(nc.Close)
	createStream(t, nc)
	delivers(t, start(t, process.Options{Args: []string{"--nats-url", srv.URL, "--nats-nkey", seed}}), nc)
	start(t, process.Options{Args: []string{"--nats-url", srv.URL}}).awaitState(t, "journaling", "check the credentials")
}

// TestNkeyRotates changes the nkey under load in direct mode. The server does not know the new nkey at first, and until it does, the
// bridge keeps the old one. No delivery is refused, and the server can forget the old nkey afterwards.
func TestNkeyRotates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf, seed := filepath.Join(dir, "conf"), filepath.Join(dir, "seed")
	var keys []nkeys.KeyPair
	for range 2 {
		keys = append(keys, must[nkeys.KeyPair](t)(nkeys.CreateUser()))
	}
	use := func(key nkeys.KeyPair) { write(t, seed, string(must[[]byte](t)(key.Seed()))) }
	admit := func(keys ...nkeys.KeyPair) {
		users := ""
		for _, k := range keys {
			users += "{ nkey: " + must[string](t)(k.PublicKey()) + " }, "
		}
		write(t, conf, fmt.Sprintf(`server_name: keys
accounts { A { jetstream: enabled, users: [ %s{ user: admin, password: admin } ] } }
jetstream { store_dir: $NATS_STORE_DIR }
`, users))
	}
	admit(keys[0])
	srv := natsd.Start(t, natsd.Options{File: conf, Name: "keys", Dir: filepath.Join(dir, "store"),
		Passwords: map[string]string{"admin": "admin"}})
	nc := srv.Connect(t, "admin")
	createStream(t, nc)
	use(keys[0])
	b := start(t, process.Options{NoDir: true, Args: []string{"--journal=off", "--nats-url", srv.URL, "--nats-nkey", seed}})
	b.awaitState(t, "ready", "")
	l := b.load(t, traffic.Options{Senders: 4, Pace: pace(2 * time.Millisecond)})
	l.AwaitAcked(t, 50)
	use(keys[1])
	b.awaitState(t, "ready", "NATS credentials: not reloaded")
	l.AwaitAcked(t, 50)
	admit(keys...)
	srv.Signal(t, syscall.SIGHUP)
	b.AwaitLog(t, "reloaded")
	l.AwaitAcked(t, 50)
	l.Stop()
	if l.Check(t, nc, "JOBS"); len(l.Codes()) != 1 {
		t.Error(l.Codes(), l.Errors())
	}
	admit(keys[1])
	srv.Kill(t)
	b.awaitState(t, "unavailable", "")
	srv.Restart(t)
	b.awaitState(t, "ready", "")
}

// TestCreds logs in with a credentials file, named by a flag or by a context of the nats command. After a rotation on disk, the bridge
// logs in with the new file.
func TestCreds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	operator, account := must[nkeys.KeyPair](t)(nkeys.CreateOperator()), must[nkeys.KeyPair](t)(nkeys.CreateAccount())
	accountKey := must[string](t)(account.PublicKey())
	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	creds := func(name string) string {
		user := must[nkeys.KeyPair](t)(nkeys.CreateUser())
		token := must[string](t)(jwt.NewUserClaims(must[string](t)(user.PublicKey())).Encode(account))
		path := filepath.Join(dir, name)
		write(t, path, string(must[[]byte](t)(jwt.FormatUserConfig(token, must[[]byte](t)(user.Seed())))))
		return path
	}
	system := must[string](t)(must[nkeys.KeyPair](t)(nkeys.CreateAccount()).PublicKey())
	operatorJWT := must[string](t)(jwt.NewOperatorClaims(must[string](t)(operator.PublicKey())).Encode(operator))
	srv := natsd.Start(t, natsd.Options{Conf: fmt.Sprintf(`operator: %s
system_account: %s
resolver: MEMORY
resolver_preload: { %s: %s, %s: %s }
jetstream { }
`, operatorJWT, system, system, must[string](t)(jwt.NewAccountClaims(system).Encode(operator)),
		accountKey, must[string](t)(claims.Encode(operator)))})
	file := creds("bridge.creds")
	nc := must[*nats.Conn](t)(nats.Connect(srv.URL, nats.UserCredentials(file)))
	t.Cleanup(nc.Close)
	createStream(t, nc)
	b := start(t, process.Options{Args: []string{"--nats-url", srv.URL, "--nats-creds", file}})
	delivers(t, b, nc)

	// A context of the nats command, by name.
	config := filepath.Join(dir, "config")
	if err := os.MkdirAll(filepath.Join(config, "nats", "context"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := must[[]byte](t)(json.Marshal(map[string]string{"url": srv.URL, "creds": file, "inbox_prefix": "_MINE"}))
	write(t, filepath.Join(config, "nats", "context", "prod.json"), string(text))
	inContext := start(t, process.Options{Args: []string{"--nats-context", "prod"}, Env: []string{"XDG_CONFIG_HOME=" + config}})
	inContext.awaitState(t, "ready", "")
	if out, stderr, code := process.RunIn(t, "", append(process.Environ(), "XDG_CONFIG_HOME="+config),
		nil, "stream", "audit", "--nats-context", "prod"); code != 0 {
		t.Error(out, stderr)
	}
	missing := process.Launch(t, process.Options{Args: []string{"--nats-context", "none"}, Env: []string{"XDG_CONFIG_HOME=" + config}})
	if state := missing.Wait(t); state.ExitCode() != 2 || !strings.Contains(missing.Log(), "--nats-context none") {
		t.Errorf("%v\n%s", state, missing.Log())
	}
	// Rotated on disk: the next connect takes the new one.
	if err := os.Rename(creds("next.creds"), file); err != nil {
		t.Fatal(err)
	}
	srv.Kill(t)
	b.awaitState(t, "journaling", "")
	srv.Restart(t)
	b.awaitState(t, "ready", "")
}

// TestNATSMistakes: for each mistake in the flags of NATS, the error says what to do.
func TestNATSMistakes(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ args, want string }{
		{"--nats-url nats://user:secret@127.0.0.1:1", "no credentials in the URL"},
		{"--nats-url 127.0.0.1", "nats://host:port"},
		{"--nats-url nats://127.0.0.1:1 --nats-context prod", "exclude each other"},
		{"--nats-url nats://127.0.0.1:1 --nats-user bridge", "belong together"},
		{"--nats-url nats://127.0.0.1:1 --nats-cert /nowhere", "belong together"},
		{"--nats-url nats://127.0.0.1:1 --nats-creds /nowhere", "no such file"},
		{"--nats-url nats://127.0.0.1:1 --nats-ca /nowhere", "no such file"},
		{"--nats-url nats://127.0.0.1:1 --dev", "--dev"},
		{"--journal off", "--nats-url"},
		{"--journal off --nats-url nats://127.0.0.1:1 --durability os", "--durability"},
		{"--trusted-proxies 10.0.0.1", "--trusted-proxies"},
		{"--quarantine-bytes 1KiB", "--no-quarantine"},
		{"--max-bytes 1MiB", "16MiB"},
	} {
		_, stderr, code := process.RunIn(t, t.TempDir(), append(process.Environ(), "JOBBRIDGE_LISTEN=127.0.0.1:0"), nil,
			append([]string{"serve", "--admin-listen", "127.0.0.1:0"}, strings.Fields(r.args)...)...)
		if code != 2 || !strings.Contains(stderr, r.want) || strings.Contains(stderr, "secret@") {
			t.Errorf("%s: exit %d, want %q in:\n%s", r.args, code, r.want, stderr)
		}
	}
}
