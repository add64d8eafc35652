//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startRemote starts a NATS server with the stream, as the build creates it, on
// a new folder. Round is the round trip to it.
func (o options) startRemote(ctx context.Context, round time.Duration) (*process, error) {
	dir, err := os.MkdirTemp(o.dir, "remote-")
	if err != nil {
		return nil, err
	}
	p, err := self("nats", dir, round.String())
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, o.words[len(o.words)-1], "stream", "create", "--nats-url="+p.url).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stream create: %w: %s", err, out), p.stop())
	}
	return p, nil
}

// serveNATS runs a NATS server with JetStream on a folder, a round trip away,
// and prints its URL.
func serveNATS(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("nats: want a folder and the round trip")
	}
	round, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: args[0], NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("nats: not ready in time")
	}
	url := s.ClientURL()
	if round > 0 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		go forwardAll(ln, s.Addr().String(), round/2)
		url = "nats://" + ln.Addr().String()
	}
	fmt.Println(url)
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// forwardAll forwards connections to an address, each way with a delay.
func forwardAll(ln net.Listener, address string, delay time.Duration) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", address)
		if err != nil {
			client.Close()
			continue
		}
		go forwardLate(client, server, delay)
		go forwardLate(server, client, delay)
	}
}

// forwardLate copies one direction until either side ends.
func forwardLate(from, to net.Conn, delay time.Duration) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	way := make(chan chunk, 4096)
	go func() {
		defer to.Close()
		for c := range way {
			time.Sleep(time.Until(c.due)) // the latency that is measured
			if _, err := to.Write(c.data); err != nil {
				from.Close()
			}
		}
	}()
	defer close(way)
	for {
		buf := make([]byte, 64<<10)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		way <- chunk{buf[:n], time.Now().Add(delay)}
	}
}
