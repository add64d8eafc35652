package journal

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/crypto/bcrypt"
)

// Accounts of the server. The stream of events and the bridge are in the events
// account. No network user is in the private account. Each worker that the auth
// file names has an account of its own; workers without a name share one.
const (
	eventsAccount  = "EVENTS"
	privateAccount = "PRIVATE"
	sharedAccount  = "WORKERS"
)

// Users that connect in process only.
const (
	bridgeUser  = "bridge"
	keeperUser  = "keeper"
	bridgeInbox = "_INBOX_BRIDGE"
)

// jetStreamAccounts declares the accounts that have JetStream. Only the server's
// configuration language can enable JetStream before the server listens.
const jetStreamAccounts = `accounts { ` + eventsAccount + ` { jetstream: enabled }, ` + privateAccount + ` { jetstream: enabled } }`

// accounts decides who may connect to the server, and to which account.
//
// Workers share no account with the stream: the server checks the subject of a
// worker's message, but not its reply subject, and it publishes the answer there
// with rights of its own. In an account without JetStream and without the bridge,
// such an answer reaches nobody but the workers of that account.
//
// accounts adds a worker's account while the server runs. A reload of the server's
// configuration would replace the imports of every account, and lose what other
// workers ask in that instant.
type accounts struct {
	requests []request
	streams  []string
	password string // of the owner
	srv      *server.Server

	mu      sync.RWMutex
	workers []Worker // none: whoever connects without credentials is a worker
}

// newAccounts fills Accounts and CustomClientAuthentication of the server's
// options. Nobody is let in before start.
func newAccounts(opts *server.Options, stream string, subjects []string, password string) (*accounts, error) {
	if err := opts.ProcessConfigString(jetStreamAccounts); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	// Push consumers deliver to an inbox in the events account.
	a := &accounts{requests: workerRequests(stream), streams: append([]string{"_INBOX.>"}, subjects...), password: password}
	for _, account := range opts.Accounts {
		if account.Name == eventsAccount {
			if err := a.export(account); err != nil {
				return nil, fmt.Errorf("accounts: %w", err)
			}
		}
	}
	opts.CustomClientAuthentication = a
	return a, nil
}

// start names the server, before it listens, and the workers.
func (a *accounts) start(srv *server.Server, workers []Worker) error {
	a.srv = srv
	return a.setWorkers(workers)
}

// setWorkers replaces the workers that may connect, and disconnects those that
// may no longer.
func (a *accounts) setWorkers(workers []Worker) error {
	names := []string{sharedAccount}
	for _, w := range workers {
		names = append(names, workerAccount(w.User))
	}
	for _, name := range names {
		if err := a.register(name); err != nil {
			return fmt.Errorf("account %s: %w", name, err)
		}
	}
	a.mu.Lock()
	was := a.workers
	a.workers = workers
	a.mu.Unlock()
	stays := make(map[Worker]bool)
	for _, w := range workers {
		stays[w] = true
	}
	var errs []error
	for _, w := range was {
		if !stays[w] {
			errs = append(errs, a.disconnect(w.User))
		}
	}
	return errors.Join(errs...)
}

// disconnect closes the connections of a user.
func (a *accounts) disconnect(user string) error {
	for {
		const page = 1024
		found, err := a.srv.Connz(&server.ConnzOptions{Username: true, User: user, Limit: page})
		if err != nil {
			return fmt.Errorf("connections of %s: %w", user, err)
		}
		for _, c := range found.Conns {
			_ = a.srv.DisconnectClientByID(c.Cid) // it may have gone by itself
		}
		if len(found.Conns) < page {
			return nil
		}
	}
}

// register makes sure that a worker's account exists.
func (a *accounts) register(name string) error {
	account, isNew := a.srv.LookupOrRegisterAccount(name)
	if !isNew {
		return nil
	}
	events, err := a.srv.LookupAccount(eventsAccount)
	if err != nil {
		return err
	}
	return a.imports(account, events)
}

// Check implements [server.Authentication].
func (a *accounts) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	user := &server.User{Username: o.Username}
	name := ""
	// A worker that is replaced meanwhile must be found by disconnect.
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch {
	case o.Username == bridgeUser || o.Username == keeperUser:
		if c.RemoteAddress().Network() != "pipe" || !samePassword(a.password, o.Password) {
			return false
		}
		name = map[string]string{bridgeUser: eventsAccount, keeperUser: privateAccount}[o.Username]
	case len(a.workers) == 0:
		if o.Username != "" || o.Password != "" || o.Token != "" || o.Nkey != "" || o.JWT != "" {
			return false
		}
		name, user.Permissions = sharedAccount, a.permissions()
	default:
		if !a.named(o.Username, o.Password) {
			return false
		}
		name, user.Permissions = workerAccount(o.Username), a.permissions()
	}
	account, err := a.srv.LookupAccount(name)
	if err != nil {
		return false
	}
	user.Account = account
	c.RegisterUser(user)
	return true
}

// named reports whether a worker has this name and password.
func (a *accounts) named(user, password string) bool {
	for _, w := range a.workers {
		if w.User == user {
			return samePassword(w.Password, password)
		}
	}
	return false
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

// request is a subject that a worker may publish.
type request struct {
	subject string
	answers server.ServiceRespType
}

// workerRequests lists what a worker may ask of the server: read the stream and
// its consumers, create and delete consumers, fetch, acknowledge and answer flow
// control. There is one export and one import per subject of the JetStream API: a
// wildcard that covers several subjects makes the server answer that the worker's
// account has no JetStream.
func workerRequests(stream string) []request {
	const one, several = server.Singleton, server.Streamed
	return []request{
		{"$JS.API.INFO", one},
		{"$JS.API.STREAM.NAMES", one},
		{"$JS.API.STREAM.LIST", one},
		{"$JS.API.STREAM.INFO." + stream, one},
		{"$JS.API.STREAM.MSG.GET." + stream, one},
		{"$JS.API.DIRECT.GET." + stream, several},
		{"$JS.API.DIRECT.GET." + stream + ".>", several},
		{"$JS.API.CONSUMER.NAMES." + stream, one},
		{"$JS.API.CONSUMER.LIST." + stream, one},
		{"$JS.API.CONSUMER.CREATE." + stream, one},
		{"$JS.API.CONSUMER.CREATE." + stream + ".>", one},
		{"$JS.API.CONSUMER.DURABLE.CREATE." + stream + ".*", one},
		{"$JS.API.CONSUMER.INFO." + stream + ".*", one},
		{"$JS.API.CONSUMER.DELETE." + stream + ".*", one},
		{"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*", several},
		{"$JS.ACK." + stream + ".>", one},
		{"$JS.ACK.*.*." + stream + ".*.*.*.*.*.*", one}, // the server's feature flag js_ack_fc_v2
		{"$JS.FC." + stream + ".>", one},
		{"$JS.FC.*.*." + stream + ".*.*", one},
	}
}

// export offers the requests and the streams to all other accounts.
func (a *accounts) export(events *server.Account) error {
	var errs []error
	for _, r := range a.requests {
		errs = append(errs, events.AddServiceExportWithResponse(r.subject, r.answers, server.IsPublicExport))
	}
	for _, subject := range a.streams {
		errs = append(errs, events.AddStreamExport(subject, server.IsPublicExport))
	}
	return errors.Join(errs...)
}

// imports gives an account what export offers.
func (a *accounts) imports(account, events *server.Account) error {
	var errs []error
	for _, r := range a.requests {
		errs = append(errs, account.AddServiceImport(events, r.subject, ""))
	}
	for _, subject := range a.streams {
		errs = append(errs, account.AddStreamImport(events, subject, ""))
	}
	return errors.Join(errs...)
}

// permissions lets a worker send the requests, answer requests of workers in its
// own account, and subscribe to everything except the requests of others.
func (a *accounts) permissions() *server.Permissions {
	publish := []string{"_INBOX.>"}
	for _, r := range a.requests {
		publish = append(publish, r.subject)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{"$JS.>", "$SYS.>"}},
	}
}
