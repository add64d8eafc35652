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
	publisher.Ready, publisher.Journaling, publisher.Misconfigured, publisher.Unavailable, publisher.Full,
	operator.Starting, operator.Draining, publisher.Failed,
}

// Health is the state of a bridge: the worst state of any of its parts, and the reasons of all parts. It is a
// [prometheus.Collector] of the state. It may be used concurrently.
type Health struct {
	translate func(string) string

	mu         sync.Mutex
	durability event.Durability
	parts      []part
	watched    []func() (publisher.State, []string) // parts that are asked
}

// part is a part of the bridge whose state was set.
type part struct {
	name    string
	state   publisher.State
	reasons []string
}

// Process names the part of a [Health] that is the process.
const Process = "bridge"

// NewHealth returns a Health in state [operator.Starting]. Each reason is reported as translate returns it.
func NewHealth(translate func(string) string) *Health {
	return &Health{translate: translate, parts: []part{{name: Process, state: operator.Starting}}}
}

// Start ends the state [operator.Starting]. durability is what an event survives that is answered with 2xx from now on.
func (h *Health) Start(durability event.Durability) {
	h.mu.Lock()
	h.durability = durability
	h.mu.Unlock()
	h.Set(Process, publisher.Ready)
}

// Set sets the state of one part, and the reasons for it. The state [publisher.Failed] is final.
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

// Watch adds a part that is asked for its state and its reasons at each report. The part must not call the Health.
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

var stateDesc = prometheus.NewDesc("jobbridge_state",
	"1 for the state that the bridge is in, as on /readyz, and 0 for the others.", []string{"state"}, nil)

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
