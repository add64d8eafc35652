package traffic

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Series returns the values of the counter or gauge with a name. The keys are the values of its labels, separated by spaces.
func Series(t testing.TB, metrics prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// AwaitSeries waits until the series with these labels has the value want.
func AwaitSeries(t testing.TB, patience time.Duration, metrics prometheus.Gatherer, name, labels string, want float64) {
	t.Helper()
	Eventually(t, patience, func() error {
		if got := Series(t, metrics, name); got[labels] != want {
			return fmt.Errorf("%s: %v, want %v of %q", name, got, want, labels)
		}
		return nil
	})
}
