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

// Accounts of the server. The stream of events and the bridge are in the events
// account. Each worker that the auth file names has an account of its own; workers
// without a name share one.
const (
	eventsAccount = "EVENTS"
	sharedAccount = "WORKERS"
	bridgeInbox   = "_INBOX_BRIDGE" // prefix of the bridge's inboxes
)

// jetStreamAccounts declares the account that has JetStream. Only the server's
// configuration language can enable JetStream before the server listens.
const jetStreamAccounts = `accounts { ` + eventsAccount + ` { jetstream: enabled } }`

// accounts decides who may connect to the server, and to which account.
//
// Workers share no account with the stream: the server checks the subject of a
// worker's message, but not its reply subject, and it publishes the answer there
// with rights of its own. In an account without JetStream and without the bridge,
// such an answer reaches nobody but the workers of that account.
//
// A worker's account is added while the server runs. A reload of the server's
// configuration would replace the imports of every account, and lose what other
// workers ask in that instant.
type accounts struct {
	srv         *server.Server                    // is set before the server starts
	requests    map[string]server.ServiceRespType // what a worker may publish
	streams     []string                          // what a worker may subscribe to in the events account
	permissions server.Permissions                // of a worker in its own account

	mu        sync.RWMutex
	passwords map[string]string // by account; "" lets in clients without one
}

// newAccounts fills Accounts and CustomClientAuthentication of the server's options.
// Nobody may connect before setWorkers.
func newAccounts(opts *server.Options, stream string, subjects []string) (*accounts, error) {
	if err := opts.ProcessConfigString(jetStreamAccounts); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	// Push consumers deliver to an inbox in the events account.
	a := &accounts{requests: workerRequests(stream), streams: append([]string{"_INBOX.>"}, subjects...)}
	publish := []string{"_INBOX.>"} // to answer requests of workers in the same account
	var errs []error
	for subject, answers := range a.requests {
		publish = append(publish, subject)
		errs = append(errs, opts.Accounts[0].AddServiceExportWithResponse(subject, answers, server.IsPublicExport))
	}
	for _, subject := range a.streams {
		errs = append(errs, opts.Accounts[0].AddStreamExport(subject, server.IsPublicExport))
	}
	a.permissions.Publish = &server.SubjectPermission{Allow: publish}
	a.permissions.Subscribe = &server.SubjectPermission{Allow: []string{">"}, Deny: []string{"$JS.>", "$SYS.>"}} // requests of others
	opts.CustomClientAuthentication = a
	return a, errors.Join(errs...)
}

// setWorkers replaces the workers that may connect, and disconnects those that may
// no longer.
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
			if err := a.imports(account); err != nil {
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
		// By account: a client that sends an nkey too hides its user from Connz.
		gone, err := a.srv.Connz(&server.ConnzOptions{Account: name, Limit: math.MaxInt})
		if err != nil {
			return fmt.Errorf("connections of account %s: %w", name, err)
		}
		for _, c := range gone.Conns {
			_ = a.srv.DisconnectClientByID(c.Cid) // it may have gone by itself
		}
	}
	return nil
}

// Check implements [server.Authentication].
func (a *accounts) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	name, user := sharedAccount, &server.User{Username: o.Username, Permissions: &a.permissions}
	switch addr := c.RemoteAddress(); {
	case addr == nil: // the client is gone
		return false
	case addr.Network() == "pipe": // the connection of this process
		name, user.Permissions = eventsAccount, nil
	case o.Username != "" || o.Password != "" || o.Token != "" || o.Nkey != "" || o.JWT != "":
		name = workerAccount(o.Username)
	}
	a.mu.RLock() // until the user is registered: setWorkers must find it
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

// samePassword compares with a password or its bcrypt hash.
func samePassword(want, got string) bool {
	if _, err := bcrypt.Cost([]byte(want)); err == nil {
		return bcrypt.CompareHashAndPassword([]byte(want), []byte(got)) == nil
	}
	return subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// workerAccount returns the account's name of a named worker. A worker's name may
// hold any character, an account's name is part of subjects: hence hex.
func workerAccount(user string) string { return "WORKER_" + hex.EncodeToString([]byte(user)) }

// workerRequests lists what a worker may ask of the server: read the stream and
// its consumers, create and delete consumers, fetch, acknowledge and answer flow
// control. There is one export and one import per subject of the JetStream API: a
// wildcard that covers several subjects makes the server answer that the worker's
// account has no JetStream.
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
		// The same with the server's feature flag js_ack_fc_v2.
		"$JS.ACK.*.*." + stream + ".*.*.*.*.*.*": one, "$JS.FC.*.*." + stream + ".*.*": one,
	}
}

// imports gives a worker's account what newAccounts has exported.
func (a *accounts) imports(account *server.Account) error {
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
