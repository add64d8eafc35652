package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// checkpoint is the content of forward.json: how far the journal is forwarded.
type checkpoint struct {
	// Target and Created identify the stream.
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	// Journal is the journal's id. Everything up to Sequence is in the stream, or
	// needs no forwarding.
	Journal  string `json:"journal"`
	Sequence uint64 `json:"sequence"`
	// StreamSequence is the highest stream sequence that was acknowledged.
	StreamSequence uint64 `json:"stream_sequence"`
	// CompareAfter is a stream sequence below which no record behind Sequence is.
	CompareAfter uint64 `json:"compare_after"`
	// Refill tells that the stream had lost records, and that they have not all
	// been published again. None of them is at or below RefillAfter.
	Refill      bool   `json:"refill,omitempty"`
	RefillAfter uint64 `json:"refill_after,omitempty"`
	// Doubt tells that a sync of the target failed: what the stream has behind
	// Sequence may not be on its disk.
	Doubt bool `json:"doubt,omitempty"`
	// Lost is the number of lost messages that the stream reported and that have
	// been dealt with.
	Lost int `json:"lost,omitempty"`
	// Written is the wall time of the write, a label.
	Written time.Time `json:"written"`
}

const (
	checkpointName = "forward.json"
	temporaryName  = "forward.json.tmp"
	damagedName    = "forward.json.damaged"
)

// errDamaged is returned when forward.json cannot be understood.
var errDamaged = errors.New("forward.json is damaged")

// readCheckpoint returns the checkpoint in a folder, or nil if there is none. A
// damaged file is renamed, and reported by errDamaged.
func readCheckpoint(dir string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c checkpoint
	err = json.Unmarshal(data, &c)
	if err == nil && (c.Target == "" || c.Journal == "" || c.Created.IsZero()) {
		err = errors.New("a field is missing")
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errDamaged, err)
		return nil, errors.Join(err, os.Rename(path, filepath.Join(dir, damagedName)), syncFolder(dir))
	}
	return &c, nil
}

// write replaces the checkpoint in a folder. It is durable on return.
func (c *checkpoint) write(dir string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, temporaryName)
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, checkpointName)); err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes the entries of a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
