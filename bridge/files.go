package bridge

import (
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// ownFiles is the number of open files that are kept for the journal, the stream and the operator.
const ownFiles = 256

// limitConnections lowers the limits of connections so that all connections together leave enough of the files that the
// process may open. If the journal cannot open a file, the storage has failed, and only a restart helps. Go has raised
// the soft limit of open files to the hard limit.
func (o *Options) limitConnections() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	files := int(min(limit.Cur, 1<<30)) - ownFiles
	if files < ownFiles {
		return fmt.Errorf("the system lets this process open %d files: at least %d are needed (ulimit -n, LimitNOFILE)", limit.Cur, 2*ownFiles)
	}
	workers := min(o.NATS.MaxConnections, files/4)
	connections := min(o.Webhook.MaxConnections, files-workers)
	if workers < o.NATS.MaxConnections || connections < o.Webhook.MaxConnections {
		o.Logger.Warn("limit of open files: raise it (ulimit -n, LimitNOFILE) for as many connections as were asked for",
			zap.Int64("files", int64(min(limit.Cur, 1<<30))), zap.Int("max-connections", connections), zap.Int("max-workers", workers))
	}
	o.NATS.MaxConnections, o.Webhook.MaxConnections = workers, connections
	return nil
}
