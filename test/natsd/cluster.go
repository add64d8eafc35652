package natsd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Nodes is a cluster of servers. Each server can be killed and restarted.
type Nodes []*Server

// Cluster starts n servers with deployments/nats/cluster.conf and waits until they accept streams with n replicas. Each server gets args
// as further flags. With --no_advertise, clients know only the nodes in their own URL.
func Cluster(t testing.TB, n int, args ...string) Nodes {
	t.Helper()
	var routes, listen []string
	for range n {
		route := "nats://route:" + Password("route") + "@" + loopback(FreePort(t))
		listen = append(listen, route)
		routes = append(routes, fmt.Sprintf("%q", route))
	}
	var nodes Nodes
	for i := range n {
		o := Deployment(t)
		o.File = DeploymentFile(t, "cluster.conf")
		o.Name = fmt.Sprintf("node-%d", i)
		o.Env = append(o.Env, "NATS_CLUSTER_PASSWORD="+Password("route"), "NATS_CLUSTER_ROUTES=["+strings.Join(routes, ",")+"]")
		o.Args = append([]string{"--cluster", listen[i]}, args...)
		nodes = append(nodes, Start(t, o))
	}
	nodes.Await(t)
	return nodes
}

// Await waits until the running nodes have elected a leader, and until each node has caught up in all its streams.
func (c Nodes) Await(t testing.TB) {
	t.Helper()
	poll(t, c, "the cluster is not ready", func(ctx context.Context) error {
		var running []*Server
		for _, s := range c {
			if s.Running() {
				running = append(running, s)
			}
		}
		for _, s := range running {
			if err := s.get(ctx, "/healthz", nil); err != nil {
				return err
			}
			var js struct {
				Meta meta `json:"meta_cluster"`
			}
			if err := s.get(ctx, "/jsz", &js); err != nil {
				return err
			}
			leader := c.node(js.Meta.Leader)
			if leader == nil || !leader.Running() {
				return fmt.Errorf("%s follows %q", s.Name, js.Meta.Leader)
			}
			// Only the leader knows who is there, and each must be asked in case
			// it is the leader.
			if leader == s {
				if err := js.Meta.has(running); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// meta is what a node reports about the group that places streams.
type meta struct {
	Leader   string `json:"leader"`
	Replicas []struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		Offline bool   `json:"offline"`
	} `json:"replicas"`
}

// has returns an error unless the leader sees all running nodes.
func (m meta) has(running []*Server) error {
	current := map[string]bool{m.Leader: true}
	for _, r := range m.Replicas {
		current[r.Name] = r.Current && !r.Offline
	}
	for _, s := range running {
		if !current[s.Name] {
			return fmt.Errorf("%s does not see %s", m.Leader, s.Name)
		}
	}
	return nil
}

// node returns the node with a name, or nil.
func (c Nodes) node(name string) *Server {
	for _, s := range c {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Leader waits until the stream has a leader that runs, and returns it.
func (c Nodes) Leader(t testing.TB, stream string) *Server {
	t.Helper()
	js := c.AdminJS(t)
	var leader *Server
	poll(t, c, "stream "+stream+" has no leader", func(ctx context.Context) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo().Cluster
		if info == nil {
			return fmt.Errorf("stream %s is in no cluster", stream)
		}
		if leader = c.node(info.Leader); leader == nil || !leader.Running() {
			return fmt.Errorf("it is led by %q", info.Leader)
		}
		return nil
	})
	return leader
}

// As returns the URLs of all nodes with the credentials of a user, separated by commas.
func (c Nodes) As(user string) string {
	var urls []string
	for _, s := range c {
		urls = append(urls, s.As(user))
	}
	return strings.Join(urls, ",")
}

// Connect connects to one of the nodes as a user. It reconnects to another node if that node ends. The connection closes at the end of the
// test.
func (c Nodes) Connect(t testing.TB, user string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	// A try at a node that was frozen must leave time for another.
	return connect(t, c.As(user),
		append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.Timeout(2 * time.Second)}, opts...)...)
}

// AdminJS returns JetStream as the user "admin".
func (c Nodes) AdminJS(t testing.TB) jetstream.JetStream {
	t.Helper()
	return jetStream(t, c.Connect(t, "admin"))
}

// poll calls try, each time with a second, until it succeeds.
func poll(t testing.TB, c Nodes, problem string, try func(context.Context) error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			var logs strings.Builder
			for _, s := range c {
				fmt.Fprintf(&logs, "\n%s:\n%s", s.Name, s.Log())
			}
			t.Fatalf("%s after %s: %v%s", problem, patience, err, logs.String())
		}
		time.Sleep(4 * pause) // between two polls; a cluster starts slower than a process
	}
}

// get asks one of the server's HTTP endpoints.
func (s *Server) get(ctx context.Context, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Monitor+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", s.Name, path, resp.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
