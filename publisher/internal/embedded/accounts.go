package embedded

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/crypto/bcrypt"
)

// The accounts of the server. The stream of events and the bridge are in the events account. Each worker with a name has an
// account of its own. Workers without a name share one.
const (
	eventsAccount = "EVENTS"
	sharedAccount = "WORKERS"
	bridgeInbox   = "_INBOX_BRIDGE" // prefix of the bridge's inboxes
)

// jetStreamAccounts declares the account that has JetStream. Only the server's configuration language can enable JetStream
// before the server listens.
const jetStreamAccounts = `accounts { ` + eventsAccount + ` { jetstream: enabled } }`

// accounts decides who may connect to the server, and to which account.
//
// Workers do not share the stream's account. The server checks the subject of a worker's message, but not its reply subject,
// and publishes the answer there with its own permissions. In an account without JetStream and without the bridge, such an
// answer reaches only the workers of that account.
//
// A worker's account is added while the server runs. A reload of the server's configuration would replace the imports of every
// account, and lose the requests that other workers send at that moment.
type accounts struct {
	srv         *server.Server                    // set before the server starts
	requests    map[string]server.ServiceRespType // the subjects that a worker may publish to
	streams     []string                          // the subjects of the events account that a worker may subscribe to
	permissions server.Permissions                // of a worker in its own account

	mu        sync.RWMutex
	passwords map[string]string // by account; "" allows clients without a password
}

// newAccounts sets Accounts and CustomClientAuthentication of the server's options. Nobody can connect before setWorkers.
func newAccounts(opts *server.Options, stream string, subjects []string) (*accounts, error) {
	if err := opts.ProcessConfigString(jetStreamAccounts); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	// Push consumers deliver to an inbox in the events account.
	a := &accounts{requests: workerRequests(stream), streams: append([]string{"_INBOX.>"}, subjects...)}
	publish := []string{"_INBOX.>"} // for answers to requests of workers in the same account
	var errs []error
	for subject, answers := range a.requests {
		publish = append(publish, subject)
		errs = append(errs, opts.Accounts[0].AddServiceExportWithResponse(subject, answers, server.IsPublicExport))
	}
	for _, subject := range a.streams {
		errs = append(errs, opts.Accounts[0].AddStreamExport(subject, server.IsPublicExport))
	}
	a.permissions.Publish = &server.SubjectPermission{Allow: publish}
	// Workers of the same account must not see each other's requests.
	a.permissions.Subscribe = &server.SubjectPermission{Allow: []string{">"}, Deny: []string{"$JS.>", "$SYS.>"}}
	opts.CustomClientAuthentication = a
	return a, errors.Join(errs...)
}

// setWorkers replaces the workers that may connect, and disconnects the others.
func (a *accounts) setWorkers(workers []Worker) error {
	passwords := map[string]string{eventsAccount: ""}
	for _, w := range workers {
		passwords[workerAccount(w.User)] = w.Password
	}
	if len(workers) == 0 {
		passwords[sharedAccount] = ""
	}
	for name := range passwords {
		if account, isNew := a.srv.LookupOrRegisterAccount(name); isNew {
			if err := a.addImports(account); err != nil {
				return fmt.Errorf("account %s: %w", name, err)
			}
		}
	}
	a.mu.Lock()
	before := a.passwords
	a.passwords = passwords
	a.mu.Unlock()
	for name, old := range before {
		if password, ok := passwords[name]; ok && password == old {
			continue
		}
		// Connz does not show the user of a client that also sends an nkey, so the connections are found by their account.
		outdated, err := a.srv.Connz(&server.ConnzOptions{Account: name, Limit: math.MaxInt})
		if err != nil {
			return fmt.Errorf("connections of account %s: %w", name, err)
		}
		for _, c := range outdated.Conns {
			_ = a.srv.DisconnectClientByID(c.Cid) // it may be closed already
		}
	}
	return nil
}

// Check implements [server.Authentication]: it reports whether a client may connect, and assigns its account.
func (a *accounts) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	name, user := sharedAccount, &server.User{Username: o.Username, Permissions: &a.permissions}
	switch addr := c.RemoteAddress(); {
	case addr == nil: // the connection is closed
		return false
	case addr.Network() == "pipe": // the connection of this process
		name, user.Permissions = eventsAccount, nil
	case o.Username != "" || o.Password != "" || o.Token != "" || o.Nkey != "" || o.JWT != "":
		name = workerAccount(o.Username)
	}
	a.mu.RLock() // until the user is registered, because setWorkers must find it
	defer a.mu.RUnlock()
	password, ok := a.passwords[name]
	if !ok || !samePassword(password, o.Password) {
		return false
	}
	var err error
	if user.Account, err = a.srv.LookupAccount(name); err != nil {
		return false
	}
	c.RegisterUser(user)
	return true
}

// samePassword reports whether got is the password want, or the one that has the bcrypt hash want.
func samePassword(want, got string) bool {
	if _, err := bcrypt.Cost([]byte(want)); err == nil {
		return bcrypt.CompareHashAndPassword([]byte(want), []byte(got)) == nil
	}
	return subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// workerAccount returns the name of a worker's account. It contains the worker's name in hex, because an account's name is
// part of subjects and a worker's name may contain any character.
func workerAccount(user string) string { return "WORKER_" + hex.EncodeToString([]byte(user)) }

// workerRequests returns the subjects of the requests that a worker may send to the server: read the stream and its consumers,
// create and delete consumers, fetch, acknowledge, and answer flow control. There is one export and one import per subject of
// the JetStream API, because with a wildcard over several subjects the server answers that the worker's account has no
// JetStream.
func workerRequests(stream string) map[string]server.ServiceRespType {
	const one, several = server.Singleton, server.Streamed
	return map[string]server.ServiceRespType{
		"$JS.API.INFO": one, "$JS.API.STREAM.NAMES": one, "$JS.API.STREAM.LIST": one, "$JS.API.STREAM.INFO." + stream: one,
		"$JS.API.STREAM.MSG.GET." + stream: one, "$JS.API.DIRECT.GET." + stream: several, "$JS.API.DIRECT.GET." + stream + ".>": several,
		"$JS.API.CONSUMER.NAMES." + stream: one, "$JS.API.CONSUMER.LIST." + stream: one, "$JS.API.CONSUMER.INFO." + stream + ".*": one,
		"$JS.API.CONSUMER.CREATE." + stream: one, "$JS.API.CONSUMER.CREATE." + stream + ".>": one,
		"$JS.API.CONSUMER.DURABLE.CREATE." + stream + ".*": one, "$JS.API.CONSUMER.DELETE." + stream + ".*": one,
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*": several,
		"$JS.ACK." + stream + ".>":                   one, "$JS.FC." + stream + ".>": one,
		// These two subjects replace the two above when the server's feature flag js_ack_fc_v2 is set.
		"$JS.ACK.*.*." + stream + ".*.*.*.*.*.*": one, "$JS.FC.*.*." + stream + ".*.*": one,
	}
}

// addImports imports into a worker's account what newAccounts has exported.
func (a *accounts) addImports(account *server.Account) error {
	events, err := a.srv.LookupAccount(eventsAccount)
	errs := []error{err}
	for subject := range a.requests {
		errs = append(errs, account.AddServiceImport(events, subject, ""))
	}
	for _, subject := range a.streams {
		errs = append(errs, account.AddStreamImport(events, subject, ""))
	}
	return errors.Join(errs...)
}
