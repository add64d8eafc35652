package bridge

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// checkAddress wants a host, which may be empty, and a port.
func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " \t/@") {
		return fmt.Errorf("%q: want a host and a port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for every address", addr)
	}
	return nil
}

// sameAddress reports whether one listener would keep another one from its address,
// also if the two are written in different ways. Both were checked by [checkAddress].
func sameAddress(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	numberA, _ := strconv.ParseUint(portA, 10, 16)
	numberB, _ := strconv.ParseUint(portB, 10, 16)
	if numberA != numberB || numberA == 0 { // 0 is any free port
		return false
	}
	if everyAddress(hostA) || everyAddress(hostB) || strings.EqualFold(hostA, hostB) {
		return true
	}
	ipA, ipB := net.ParseIP(hostA), net.ParseIP(hostB)
	switch {
	case ipA != nil && ipB != nil:
		return ipA.Equal(ipB)
	case ipA != nil:
		return strings.EqualFold(hostB, "localhost") && ipA.IsLoopback()
	case ipB != nil:
		return strings.EqualFold(hostA, "localhost") && ipB.IsLoopback()
	}
	return false
}

// everyAddress reports whether a listener for host listens on every address of the
// machine.
func everyAddress(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}

// isLoopback reports whether only this machine reaches an address that was checked.
func isLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
