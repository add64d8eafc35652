package main

import (
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
)

// serveFlags are the flags of serve. config check and config print accept them too. help.yaml has their texts.
type serveFlags struct {
	Webhook    webhookFlags    `embed:"" group:"Webhooks:"`
	Secrets    secretFlags     `embed:""`
	TLS        tlsFlags        `embed:"" group:"HTTPS of the webhook listener:"`
	ACME       acmeFlags       `embed:"" prefix:"acme-" group:"HTTPS of the webhook listener:"`
	Storage    storageFlags    `embed:"" group:"Journal:"`
	Stream     eventFlags      `embed:"" group:"Stream:"`
	Workers    workerFlags     `embed:"" group:"Embedded NATS server:"`
	WorkersTLS tlsFlags        `embed:"" prefix:"nats-" group:"Embedded NATS server:"`
	NATS       natsFlags       `embed:"" prefix:"nats-" group:"A NATS of yours:"`
	Quarantine quarantineFlags `embed:"" group:"Quarantine:"`
	Admin      listenerFlags   `embed:"" group:"Admin listener:"`
	AdminTLS   tlsFlags        `embed:"" prefix:"admin-" group:"Admin listener:"`
	Log        logFlags        `embed:"" group:"Log and traces:"`
	Trace      traceFlags      `embed:"" group:"Log and traces:"`
	Shutdown   shutdownFlags   `embed:"" group:"Shutdown:"`
	Config     kong.ConfigFlag `placeholder:"FILE"`
	Dev        bool
}

// webhookFlags configure the webhook listener, and what it accepts.
type webhookFlags struct {
	Listen         string           `default:"${listen}"`
	Path           string           `default:"${path}"`
	TrustedProxies []string         `placeholder:"CIDR"`
	Tolerance      time.Duration    `default:"${tolerance}"`
	MaxBody        units.Base2Bytes `default:"${max_body}"`
	MaxInFlight    int              `default:"${max_in_flight}"`
	MaxConnections int              `default:"${max_connections}"`
	IdleTimeout    time.Duration    `default:"${idle_timeout}"`
	MaxBodyMemory  units.Base2Bytes `default:"${max_body_memory}" hidden:""`
	ForgeryRate    int              `default:"${forgery_rate}" hidden:""`
}

// storageFlags configure the data folder and its journal.
type storageFlags struct {
	DataDir      string           `placeholder:"DIR" type:"path"`
	Journal      string           `enum:"on,off" default:"on"`
	MaxBytes     units.Base2Bytes `name:"journal-max-bytes" placeholder:"SIZE"`
	Durability   string           `enum:"fsync,os" default:"${durability}"`
	DedupeWindow time.Duration    `default:"${dedupe_window}"`
	AcceptClock  bool
}

// eventFlags describe the stream that serve publishes to.
type eventFlags struct {
	Stream    string           `default:"${stream}"`
	Subject   string           `default:"${subject}"`
	Retention time.Duration    `default:"${retention}"`
	MaxBytes  units.Base2Bytes `placeholder:"SIZE"`
}

// workerFlags configure the embedded NATS server.
type workerFlags struct {
	Listen   string `name:"nats-listen" default:"${nats_listen}"`
	AuthFile string `name:"nats-auth-file" placeholder:"FILE" type:"path"`
	Max      int    `name:"max-workers" default:"${max_workers}" hidden:""`
}

// quarantineFlags bound the quarantine.
type quarantineFlags struct {
	Enabled bool             `name:"quarantine" default:"true" negatable:""`
	Bytes   units.Base2Bytes `name:"quarantine-bytes" default:"${quarantine_bytes}"`
	Age     time.Duration    `name:"quarantine-age" default:"${quarantine_age}"`
	MaxBody units.Base2Bytes `name:"quarantine-max-body" default:"${quarantine_max_body}" hidden:""`
}

// listenerFlags configure the admin listener.
type listenerFlags struct {
	Listen    string `name:"admin-listen" default:"${admin_listen}"`
	TokenFile string `name:"admin-token-file" placeholder:"FILE" type:"path"`
	Pprof     bool
}

// shutdownFlags bound the shutdown.
type shutdownFlags struct {
	DrainDelay   time.Duration `default:"0s"`
	DrainTimeout time.Duration `default:"${drain_timeout}"`
}
