package admin

import (
	"slices"
	"sync"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/prometheus/client_golang/prometheus"
)

// byBadness are all states, from the best to the worst.
var byBadness = []publisher.State{
	publisher.Ready, publisher.Journaling, publisher.Misconfigured, publisher.Unavailable, publisher.Full, operator.Starting, operator.Draining, publisher.Failed,
}

// Health is what the operator's listener reports: the worst that any part of
// the bridge says of itself, and the reasons of all. It is a
// [prometheus.Collector] of its state, and may be used concurrently.
type Health struct {
	translate func(string) string

	mu         sync.Mutex
	durability event.Durability
	parts      []part
	watched    []func() (publisher.State, []string)
}

type part struct {
	name    string
	state   publisher.State
	reasons []string
}

// Process is the part of a [Health] that stands for the process.
const Process = "bridge"

// NewHealth returns a Health in state [operator.Starting]. Each reason is reported as translate returns it.
func NewHealth(translate func(string) string) *Health {
	return &Health{translate: translate, parts: []part{{name: Process, state: operator.Starting}}}
}

// Start ends [operator.Starting]; durability is what a 2xx means from now on.
func (h *Health) Start(durability event.Durability) {
	h.mu.Lock()
	h.durability = durability
	h.mu.Unlock()
	h.Set(Process, publisher.Ready)
}

// Set changes what one part says of itself. [publisher.Failed] is final.
func (h *Health) Set(name string, s publisher.State, reasons ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.parts, func(p part) bool { return p.name == name })
	switch {
	case i < 0:
		h.parts = append(h.parts, part{name, s, reasons})
	case h.parts[i].state != publisher.Failed:
		h.parts[i] = part{name, s, reasons}
	}
}

// Watch adds a part that is asked for its state and reasons at each report. It
// must not call back.
func (h *Health) Watch(part func() (publisher.State, []string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = append(h.watched, part)
}

// Report returns the present state.
func (h *Health) Report() operator.Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := operator.Report{State: publisher.Ready, Durability: h.durability, Reasons: []string{}}
	add := func(state publisher.State, reasons []string) {
		if slices.Index(byBadness, state) > slices.Index(byBadness, r.State) {
			r.State = state
		}
		for _, reason := range reasons {
			r.Reasons = append(r.Reasons, h.translate(reason))
		}
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
