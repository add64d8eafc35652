package listener

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// spareFiles is how many file descriptors acceptAll leaves for others. Without a descriptor, the journal could not sync.
const spareFiles = 128

// acceptAll shuts ln down and returns the connections that wait in its queue. To their senders these connections are
// made, and may already carry a request, but closing the listener alone would reset them. acceptAll accepts them first, and
// shuts the listener down immediately after the last one. It leaves connections in the queue only if the process would run
// out of file descriptors.
func acceptAll(ln net.Listener) (accepted []net.Conn) {
	var fds []int
	limit := unix.Rlimit{Cur: 1024}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // if the limit is not known, assume a small one
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
			// The system assigns the lowest free descriptor, so fd tells how many are open. Cur is signed on FreeBSD.
			if uint64(fd)+spareFiles >= uint64(limit.Cur) { //nolint:unconvert // the types differ between systems
				break
			}
		}
		_ = unix.Shutdown(int(listener), unix.SHUT_RD) // stops Linux from listening; other systems stop with Close
	})
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "connection")
		if c, err := net.FileConn(f); err == nil {
			accepted = append(accepted, c)
		}
		f.Close() // the connection has a descriptor of its own
	}
	return accepted
}

// readable reports whether a read from conn would return at once.
func readable(conn net.Conn) bool {
	ready := 0
	control(conn, func(fd uintptr) {
		ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return ready > 0
}

// control calls f with the descriptor of a listener or a connection. It does not call f if the socket is closed or does
// not belong to the system.
func control(socket any, f func(fd uintptr)) {
	conn, ok := socket.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(f)
	}
}
