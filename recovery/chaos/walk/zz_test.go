package walk

import (
	"os"
	"testing"
)

func TestZZ(t *testing.T) {
	f, err := os.Open(os.Getenv("ZZ"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ReadRecord(f)
	if err != nil {
		t.Fatal(err)
	}
	_, sim, err := r.Plan.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps, found := Compare(r.Lines, sim)
	for _, d := range found {
		t.Error(d)
	}
	t.Log(steps, len(found))
}
