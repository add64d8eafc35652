package bridge

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jobbridge/jobbridge/publisher"
)

// checkAddress returns an error unless addr is a host, which may be empty, and a port.
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

// sameAddress reports whether two listeners would need the same address, even if the two addresses are written in
// different ways. [checkAddress] has accepted both.
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
	if strings.EqualFold(hostA, "localhost") || strings.EqualFold(hostB, "localhost") {
		return publisher.IsLoopback(hostA) && publisher.IsLoopback(hostB)
	}
	ip := net.ParseIP(hostA)
	return ip != nil && ip.Equal(net.ParseIP(hostB))
}

// everyAddress reports whether a listener for host listens on every address of the machine.
func everyAddress(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}
