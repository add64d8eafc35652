package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// checkNATSURLs checks a list of servers. The error names the entry by its number, and shows it unless the list may hold a password.
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
			return fmt.Errorf("%s: no credentials in the URL, where every user of this machine sees them: "+
				"give --nats-creds, or --nats-user and --nats-password-file", entry)
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
