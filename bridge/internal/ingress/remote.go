package ingress

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/labstack/echo/v4"
	"go.uber.org/zap"
)

// forwarded finds the address of the client behind trusted proxies.
type forwarded struct {
	trusted []*net.IPNet
	log     *zap.Logger
	warned  sync.Once
}

// remoteIP returns the function that gives the address of a request's sender. A
// header about the address is the sender's word, unless a trusted proxy wrote it.
func remoteIP(proxies []*net.IPNet, log *zap.Logger) echo.IPExtractor {
	direct := echo.ExtractIPDirect()
	if len(proxies) == 0 {
		return direct
	}
	f := &forwarded{trusted: proxies, log: log}
	return func(r *http.Request) string { return f.client(direct(r), r.Header[echo.HeaderXForwardedFor]) }
}

// client returns the address nearest to the bridge that is not a trusted proxy's:
// direct is the address of the connection, and each proxy appends to the header
// the address that it was connected from. If all are trusted, client returns the
// farthest one. If an entry is not an address, nothing before it can be trusted,
// and client returns direct.
func (f *forwarded) client(direct string, header []string) string {
	addr, ok := parseForwarded(direct)
	if !ok || !f.trusts(addr) || len(header) == 0 {
		return direct
	}
	entries := strings.Split(strings.Join(header, ","), ",")
	for i := len(entries) - 1; i >= 0; i-- {
		if addr, ok = parseForwarded(entries[i]); !ok {
			f.warned.Do(func() {
				f.log.Warn("X-Forwarded-For holds what is not an address: such requests count as their proxy's; this is logged once",
					zap.String("entry", event.Printable(entries[i], 64)), zap.String("proxy", direct))
			})
			return direct
		}
		if !f.trusts(addr) {
			break
		}
	}
	return addr.String()
}

func (f *forwarded) trusts(addr netip.Addr) bool {
	ip := net.IP(addr.AsSlice())
	for _, network := range f.trusted {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// parseForwarded reads one entry of X-Forwarded-For: an address, also in
// brackets, and with a port, as Azure's gateways write it.
func parseForwarded(entry string) (netip.Addr, bool) {
	entry = strings.TrimSpace(entry)
	if withPort, err := netip.ParseAddrPort(entry); err == nil {
		return plain(withPort.Addr()), true
	}
	entry = strings.TrimSuffix(strings.TrimPrefix(entry, "["), "]")
	addr, err := netip.ParseAddr(entry)
	return plain(addr), err == nil
}

// plain returns addr without a zone, and an IPv4 address as such.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
