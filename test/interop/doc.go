// Package interop tests jobbridge with software of others: the JSON and HMAC of Node.js, the express receiver that the provider documents,
// the official JavaScript client of NATS, and the nats command.
package interop
