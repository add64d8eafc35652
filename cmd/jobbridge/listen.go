package main

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// inherited returns the listeners of the sockets that systemd passes: the one named "admin", and another one for the webhook. Either
// may be nil.
func inherited() (webhook, admin net.Listener, err error) {
	sockets, err := activation.ListenersWithNames()
	if err != nil {
		return nil, nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	for name, listeners := range sockets {
		for _, ln := range listeners {
			switch {
			case name == "admin" && admin == nil:
				admin = ln
			case webhook == nil && ln != nil:
				webhook = sharedSocket{ln}
			default:
				return nil, nil, usage("sockets from systemd: want one for webhooks and at most one with FileDescriptorName=admin, not %q", name)
			}
		}
	}
	return webhook, admin, nil
}

// sharedSocket hides the type of a listener, so that nobody shuts down its socket: the connections that wait in the socket are for
// the next process.
type sharedSocket struct{ net.Listener }
