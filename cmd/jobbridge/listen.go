package main

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// inherited returns the listeners that systemd hands over: sockets named "webhook"
// and "admin", or a single one of any name for the webhook. Either may be nil.
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
				webhook = shared{ln}
			default:
				return nil, nil, usage("sockets from systemd: want one for webhooks and perhaps one with FileDescriptorName=admin, not another %q", name)
			}
		}
	}
	return webhook, admin, nil
}

// shared is a listener whose socket lives on when we have closed it: the
// connections that wait in it are for the next process, and it must not be shut
// down.
type shared struct{ net.Listener }
