// Package journal is the write-ahead log.
package journal
