// Package source identifies the source of a request, and limits what one source may use.
//
// It leaves to its callers what is limited, and what happens to a request beyond the limit.
package source

import (
	"net"
	"net/netip"
)

// Shared is a source that stands for many clients, such as a trusted proxy. A [Limiter] limits it by the total alone.
var Shared = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Of returns what counts as one source: an IPv4 address, or an IPv6 network of 64 bits. It returns the zero Prefix if
// remote is not an address.
func Of(remote string) netip.Prefix {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// In reports whether one of the networks contains ip.
func In(networks []*net.IPNet, ip net.IP) bool {
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}
