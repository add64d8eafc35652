package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
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

// checkNATSURLs checks a list of servers. The error names the entry by its number, and
// shows it unless the list may hold a password.
func checkNATSURLs(list []string) error {
	schemes := make(map[string]bool)
	secret := strings.Contains(strings.Join(list, ","), "@") // a comma in a password makes two entries of one
	for i, text := range list {
		text = strings.TrimSpace(text)
		entry := fmt.Sprintf("entry %d", i+1)
		if len(list) == 1 {
			entry = "the URL"
		}
		if !secret {
			entry += fmt.Sprintf(" (%q)", redact(text))
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return fmt.Errorf("%s: want nats://host:port or tls://host:port", entry)
		}
		if u.User != nil {
			return fmt.Errorf("%s: no credentials in the URL, where every user of this machine sees them: give --nats-creds, or --nats-user and --nats-password-file", entry)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		switch {
		case u.Hostname() == "":
			return fmt.Errorf("%s: the host is missing", entry)
		case strings.HasSuffix(u.Host, ":"):
			return fmt.Errorf("%s: the port is missing behind the colon", entry)
		case u.Port() != "" && (err != nil || port == 0):
			return fmt.Errorf("%s: the port must be between 1 and 65535", entry)
		case strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" && (u.Scheme == "nats" || u.Scheme == "tls"):
			return fmt.Errorf("%s: want nothing behind the port", entry)
		}
		schemes[u.Scheme] = true
	}
	if len(schemes) > 1 {
		return errors.New("the servers have different schemes: want nats:// for all, tls:// for all, or ws:// or wss:// for all")
	}
	return nil
}
