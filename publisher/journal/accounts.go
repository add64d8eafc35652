package journal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// Accounts of the server. The stream of events and the bridge are in the events
// account. No network user is in the private account. Each worker that the auth
// file names has an account of its own; workers without a name share one.
const (
	eventsAccount  = "EVENTS"
	privateAccount = "PRIVATE"
	sharedAccount  = "WORKERS"
)

// Users of the server. bridge and keeper connect in process only.
const (
	bridgeUser  = "bridge"
	keeperUser  = "keeper"
	workerUser  = "worker"
	bridgeInbox = "_INBOX_BRIDGE"
)

// jetStreamAccounts declares the accounts that have JetStream. Only the server's
// configuration language can enable JetStream before the server listens.
const jetStreamAccounts = `accounts { ` + eventsAccount + ` { jetstream: enabled }, ` + privateAccount + ` { jetstream: enabled } }`

// setAccounts fills Accounts, Users and NoAuthUser of the server's options.
//
// Workers share no account with the stream: the server checks the subject of a
// worker's message, but not its reply subject, and it publishes the answer there
// with rights of its own. In an account without JetStream and without the bridge,
// such an answer reaches nobody but the workers of that account.
func setAccounts(opts *server.Options, workers []Worker, stream string, subjects []string, password string) error {
	if err := opts.ProcessConfigString(jetStreamAccounts); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	byName := make(map[string]*server.Account)
	for _, a := range opts.Accounts {
		byName[a.Name] = a
	}
	events := byName[eventsAccount]
	inProcess := map[string]struct{}{"IN_PROCESS": {}}
	opts.Users = []*server.User{
		{Username: bridgeUser, Password: password, Account: events, AllowedConnectionTypes: inProcess},
		{Username: keeperUser, Password: password, Account: byName[privateAccount], AllowedConnectionTypes: inProcess},
	}
	requests := workerRequests(stream)
	// Push consumers deliver to an inbox in the events account.
	streams := append([]string{"_INBOX.>"}, subjects...)
	if err := export(events, requests, streams); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	nameless := len(workers) == 0
	if nameless {
		// NoAuthUser names the user that the server assigns to clients without
		// credentials. Nobody logs in with its password, so it is random.
		workers = []Worker{{workerUser, rand.Text()}}
		opts.NoAuthUser = workerUser
	}
	for _, w := range workers {
		account := server.NewAccount(workerAccount(w.User))
		if nameless {
			account = server.NewAccount(sharedAccount)
		}
		if err := imports(account, events, requests, streams); err != nil {
			return fmt.Errorf("accounts: worker %q: %w", w.User, err)
		}
		opts.Accounts = append(opts.Accounts, account)
		opts.Users = append(opts.Users, &server.User{Username: w.User, Password: w.Password, Account: account, Permissions: workerPermissions(requests)})
	}
	return nil
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
func export(events *server.Account, requests []request, streams []string) error {
	var errs []error
	for _, r := range requests {
		errs = append(errs, events.AddServiceExportWithResponse(r.subject, r.answers, server.IsPublicExport))
	}
	for _, subject := range streams {
		errs = append(errs, events.AddStreamExport(subject, server.IsPublicExport))
	}
	return errors.Join(errs...)
}

// imports gives an account what export offers.
func imports(account, events *server.Account, requests []request, streams []string) error {
	var errs []error
	for _, r := range requests {
		errs = append(errs, account.AddServiceImport(events, r.subject, ""))
	}
	for _, subject := range streams {
		errs = append(errs, account.AddStreamImport(events, subject, ""))
	}
	return errors.Join(errs...)
}

// workerPermissions lets a worker send the requests, answer requests of workers
// in its own account, and subscribe to everything except the requests of others.
func workerPermissions(requests []request) *server.Permissions {
	publish := []string{"_INBOX.>"}
	for _, r := range requests {
		publish = append(publish, r.subject)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{"$JS.>", "$SYS.>"}},
	}
}
