package operator_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// TestQuery: the server reads what the client writes.
func TestQuery(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		want := operator.ReleaseOptions{Stale: i&1 != 0, Force: i&2 != 0, DryRun: i&4 != 0}
		query, err := url.ParseQuery(want.Query(7, 1<<53).Encode())
		if err != nil {
			t.Fatal(err)
		}
		sequences, err := operator.ParseSequences(query)
		got, wrong := operator.ParseReleaseOptions(query)
		if got != want || wrong != nil || err != nil || !slices.Equal(sequences, []uint64{7, 1 << 53}) {
			t.Errorf("%s: %+v %v %v %v", query.Encode(), got, sequences, wrong, err)
		}
	}
	if sequences, err := operator.ParseSequences(operator.SequenceQuery()); err != nil || sequences != nil {
		t.Error(sequences, err)
	}
	for _, text := range []string{"x", "", "-1", "1.5", "18446744073709551616"} {
		if _, err := operator.ParseSequences(url.Values{"seq": {text}}); !errors.Is(err, operator.ErrNotFound) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestBadReleaseOptions: nothing that is meant as a dry run is taken for a release.
func TestBadReleaseOptions(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"dry_run=1", "dry_run=TRUE", "dry_run", "stale=yes", "force=%20true"} {
		query, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := operator.ParseReleaseOptions(query); !errors.Is(err, operator.ErrQuery) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func ExampleReleaseOptions_Query() {
	query := operator.ReleaseOptions{DryRun: true}.Query(3, 4)
	fmt.Println("POST", operator.PathRelease+"?"+query.Encode())
	// Output:
	// POST /quarantine/release?dry_run=true&force=false&seq=3&seq=4&stale=false
}
