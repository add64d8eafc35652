// Package interop proves jobbridge against software that it did not write:
// Node's JSON and HMAC, the provider's documented express receiver, the
// official JavaScript client of NATS, and the nats command.
package interop
