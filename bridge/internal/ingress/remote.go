package ingress

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
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

// remoteIP returns the function that returns the address of a request's sender. It believes X-Forwarded-For only if a
// trusted proxy sent the request.
func remoteIP(proxies []*net.IPNet, log *zap.Logger) func(*http.Request) string {
	direct := echo.ExtractIPDirect()
	if len(proxies) == 0 {
		return direct
	}
	f := &forwarded{trusted: proxies, log: log}
	return func(r *http.Request) string { return f.client(direct(r), r.Header[echo.HeaderXForwardedFor]) }
}

// client returns the address nearest to the bridge that does not belong to a trusted proxy. direct is the address of the
// connection, and each proxy has appended to the header the address that it was connected from. If all addresses belong to
// trusted proxies, client returns the farthest one. If an entry is not an address, no entry before it can be trusted, and
// client returns direct.
func (f *forwarded) client(direct string, header []string) string {
	addr, ok := parseForwarded(direct)
	if !ok || !f.trusts(addr) || len(header) == 0 {
		return direct
	}
	entries := strings.Split(strings.Join(header, ","), ",")
	for i := len(entries) - 1; i >= 0; i-- {
		if addr, ok = parseForwarded(entries[i]); !ok {
			f.warned.Do(func() {
				f.log.Warn("X-Forwarded-For has an entry that is not an address: such requests count as requests of the proxy; "+
					"this is logged once", zap.String("entry", event.Printable(entries[i], 64)), zap.String("proxy", direct))
			})
			return direct
		}
		if !f.trusts(addr) {
			break
		}
	}
	return addr.String()
}

func (f *forwarded) trusts(addr netip.Addr) bool { return source.In(f.trusted, addr.AsSlice()) }

// parseForwarded parses one entry of X-Forwarded-For: an address, in brackets or not, and with a port or not. Azure's
// gateways append the port.
func parseForwarded(entry string) (netip.Addr, bool) {
	entry = strings.TrimSpace(entry)
	if withPort, err := netip.ParseAddrPort(entry); err == nil {
		return plain(withPort.Addr()), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(entry, "["), "]"))
	return plain(addr), err == nil
}

// plain returns addr without a zone, and an IPv4 address that is written as IPv6 as IPv4.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
