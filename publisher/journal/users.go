package journal

import (
	"crypto/rand"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	bridgeUser  = "bridge"
	keeperUser  = "keeper"
	workerUser  = "worker"
	bridgeInbox = "_INBOX_BRIDGE"
)

// users returns the owner of each account, in process and with a random
// password, and the workers.
func users(accounts []*server.Account, password string, workers []Worker, stream string) []*server.User {
	byName := make(map[string]*server.Account)
	for _, a := range accounts {
		byName[a.Name] = a
	}
	local := map[string]struct{}{"IN_PROCESS": {}}
	list := []*server.User{
		{Username: bridgeUser, Password: password, Account: byName[eventsAccount], AllowedConnectionTypes: local},
		{Username: keeperUser, Password: password, Account: byName[privateAccount], AllowedConnectionTypes: local},
	}
	if len(workers) == 0 {
		// Whom the server takes a client for that names nobody; its password
		// is never used.
		workers = []Worker{{workerUser, rand.Text()}}
	}
	for _, w := range workers {
		list = append(list, &server.User{Username: w.User, Password: w.Password, Account: byName[eventsAccount], Permissions: workerPermissions(stream)})
	}
	return list
}

// workerPermissions lets a worker look at the stream, create consumers, fetch
// and ack, and answer requests of other workers. It cannot publish an event,
// change or purge the stream, or send a PubAck to the bridge's inbox.
func workerPermissions(stream string) *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"_INBOX.>",
			"$JS.API.INFO",
			"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
			"$JS.API.STREAM.INFO." + stream,
			"$JS.API.STREAM.MSG.GET." + stream,
			"$JS.API.DIRECT.GET." + stream, "$JS.API.DIRECT.GET." + stream + ".>",
			"$JS.API.CONSUMER.*." + stream, "$JS.API.CONSUMER.*." + stream + ".>",
			"$JS.API.CONSUMER.DURABLE.CREATE." + stream + ".*",
			"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*",
			"$JS.ACK." + stream + ".>",
			"$JS.FC." + stream + ".>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{bridgeInbox + ".>"}},
	}
}
