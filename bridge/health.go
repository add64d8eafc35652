package bridge

import (
	"slices"
	"sync"

	"github.com/jobbridge/jobbridge/publisher"
)

// State is what the bridge can do for a sender now.
type State string

// The states in the order of a life.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Draining State = "draining"
	Failed   State = "failed"
)

// Health is what the operator's listener reports. It may be used concurrently.
type Health struct {
	mu         sync.Mutex
	state      State
	durability publisher.Durability
	reasons    []string
}

// NewHealth returns a Health in state [Starting].
func NewHealth() *Health { return &Health{state: Starting} }

// Set changes the state. [Failed] is final, and draining does not get ready.
func (h *Health) Set(s State, reasons ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == Failed || h.state == Draining && s == Ready {
		return
	}
	h.state, h.reasons = s, reasons
}

// SetDurability names what a 2xx means.
func (h *Health) SetDurability(d publisher.Durability) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.durability = d
}

// Report is a Health at one moment.
type Report struct {
	State      State                `json:"state"`
	Durability publisher.Durability `json:"durability,omitempty"`
	Reasons    []string             `json:"reasons"`
}

// Report returns the present state.
func (h *Health) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Report{State: h.state, Durability: h.durability, Reasons: append([]string{}, slices.Clone(h.reasons)...)}
}
