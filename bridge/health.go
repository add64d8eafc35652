package bridge

import (
	"slices"
	"sync"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/prometheus/client_golang/prometheus"
)

// State is what the bridge can do for a sender now.
type State string

// The states, from the best to the worst. In the first two, deliveries are
// taken and an acknowledged one is safe; in Draining too, but not for long.
const (
	// Ready: everything works.
	Ready State = "ready"
	// Journaling: deliveries are stored here, but do not get on to the remote
	// stream. To take such a bridge out of service would lose them.
	Journaling State = "journaling"
	// Misconfigured: deliveries are refused until an operator changes something.
	Misconfigured State = "misconfigured"
	// Unavailable: deliveries are refused until the remote stream is back.
	Unavailable State = "unavailable"
	// Full: deliveries are refused until there is room.
	Full State = "full"
	// Starting: deliveries wait.
	Starting State = "starting"
	// Draining: the bridge was told to stop.
	Draining State = "draining"
	// Failed: the storage failed; only a restart helps.
	Failed State = "failed"
)

var byBadness = []State{Ready, Journaling, Misconfigured, Unavailable, Full, Starting, Draining, Failed}

// Serving reports whether a load balancer should send deliveries here.
func (s State) Serving() bool { return s == Ready || s == Journaling }

// Health is what the operator's listener reports: the worst that any part of
// the bridge says of itself, and the reasons of all. It is a
// [prometheus.Collector] of its state, and may be used concurrently.
type Health struct {
	mu         sync.Mutex
	durability event.Durability
	parts      []part
	watched    []func() (State, []string)
}

type part struct {
	name    string
	state   State
	reasons []string
}

// lifePart is the part that stands for the process.
const lifePart = "bridge"

// NewHealth returns a Health in state [Starting].
func NewHealth() *Health { return &Health{parts: []part{{name: lifePart, state: Starting}}} }

// Start ends [Starting]; durability is what a 2xx means from now on.
func (h *Health) Start(durability event.Durability) {
	h.mu.Lock()
	h.durability = durability
	h.mu.Unlock()
	h.Set(lifePart, Ready)
}

// Set changes what one part says of itself. [Failed] is final.
func (h *Health) Set(name string, s State, reasons ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.parts, func(p part) bool { return p.name == name })
	switch {
	case i < 0:
		h.parts = append(h.parts, part{name, s, reasons})
	case h.parts[i].state != Failed:
		h.parts[i] = part{name, s, reasons}
	}
}

// Watch adds a part that is asked for its state and reasons at each report. It
// must not call back.
func (h *Health) Watch(part func() (State, []string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = append(h.watched, part)
}

// Report is a Health at one moment.
type Report struct {
	State      State            `json:"state"`
	Durability event.Durability `json:"durability,omitempty"`
	Reasons    []string         `json:"reasons"`
}

// Report returns the present state.
func (h *Health) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{State: Ready, Durability: h.durability, Reasons: []string{}}
	add := func(state State, reasons []string) {
		if slices.Index(byBadness, state) > slices.Index(byBadness, r.State) {
			r.State = state
		}
		r.Reasons = append(r.Reasons, reasons...)
	}
	for _, p := range h.parts {
		add(p.state, p.reasons)
	}
	for _, part := range h.watched {
		add(part())
	}
	return r
}

var stateDesc = prometheus.NewDesc("jobbridge_state", "1 for the state that the bridge is in, as on /readyz, and 0 for the others.", []string{"state"}, nil)

// Describe implements [prometheus.Collector].
func (*Health) Describe(ch chan<- *prometheus.Desc) { ch <- stateDesc }

// Collect implements [prometheus.Collector].
func (h *Health) Collect(ch chan<- prometheus.Metric) {
	now := h.Report().State
	for _, s := range byBadness {
		is := 0.0
		if s == now {
			is = 1
		}
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, is, string(s))
	}
}
