package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// listen opens the listener of the webhook and that of the operator, or takes
// them over from systemd: sockets named "webhook" and "admin", or a single one
// of any name for the webhook.
func (c *serveCmd) listen(ctx context.Context) (webhook, admin net.Listener, err error) {
	inherited, err := activation.ListenersWithNames()
	if err != nil {
		return nil, nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	for name, listeners := range inherited {
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
	var lc net.ListenConfig
	if admin == nil {
		if admin, err = lc.Listen(ctx, "tcp", c.AdminListen); err != nil {
			return nil, nil, fmt.Errorf("--admin-listen: %w", err)
		}
	}
	if webhook == nil {
		if webhook, err = lc.Listen(ctx, "tcp", c.Listen); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--listen: %w", err), admin.Close())
		}
	}
	return webhook, admin, nil
}

// shared is a listener whose socket lives on when we have closed it: the
// connections that wait in it are for the next process, and it must not be shut
// down.
type shared struct{ net.Listener }
