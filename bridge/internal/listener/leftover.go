package listener

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// spareFiles is how many open files are left to others: without one, the journal
// could not sync.
const spareFiles = 128

// Close closes ln and returns the connections that it had not accepted
// yet. Closing alone would reset those, though their senders take them for made
// and may have sent their request: the queue is emptied, and the listener shut
// in the same breath, but for what the system allows no open files for.
func Close(ln net.Listener) Leftover {
	defer ln.Close()
	var fds []int
	limit := unix.Rlimit{Cur: 1024}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // a limit that is not known is a small one
	control(ln, func(listener uintptr) {
		for {
			fd, _, err := unix.Accept(int(listener))
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
				continue
			}
			if err != nil {
				break // the queue is empty
			}
			fds = append(fds, fd)
			// The system gives the lowest free number, so that fd tells how many are
			// open. Cur is signed on FreeBSD.
			if uint64(fd)+spareFiles >= uint64(limit.Cur) { //nolint:unconvert // the types differ between systems
				break
			}
		}
		_ = unix.Shutdown(int(listener), unix.SHUT_RD) // Linux stops to listen with this, others with Close
	})
	var left Leftover
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "accepted")
		if c, err := net.FileConn(f); err == nil {
			left = append(left, c)
		}
		f.Close() // the connection has a descriptor of its own
	}
	return left
}

// readable reports whether a read would return at once.
func readable(conn net.Conn) bool {
	ready := 0
	control(conn, func(fd uintptr) {
		ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return ready > 0
}

// control gives f the descriptor of a listener or a connection, unless that is
// closed, or none of the system's.
func control(socket any, f func(fd uintptr)) {
	conn, ok := socket.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(f)
	}
}

// Leftover is a listener that has been closed, except for these connections.
type Leftover []net.Conn

// Accept implements [net.Listener].
func (l *Leftover) Accept() (net.Conn, error) {
	if len(*l) == 0 {
		return nil, net.ErrClosed
	}
	c := (*l)[0]
	*l = (*l)[1:]
	return c, nil
}

// Close implements [net.Listener].
func (*Leftover) Close() error { return nil }

// Addr implements [net.Listener].
func (*Leftover) Addr() net.Addr { return &net.TCPAddr{} }
