package walk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Record is what was walked on a machine and what came of it. The one in
// testdata is of a real kernel, so that the simulated one can be held against
// it where there is no VM.
type Record struct {
	Plan  Plan
	Lines []Line
}

// Write writes the plan on a line of its own, and then the trace.
func (r Record) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r.Plan); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	for _, l := range r.Lines {
		if err := enc.Encode(l); err != nil {
			return fmt.Errorf("write the trace: %w", err)
		}
	}
	return nil
}

// ReadRecord reads what Write wrote.
func ReadRecord(from io.Reader) (r Record, err error) {
	dec := json.NewDecoder(from)
	if err := dec.Decode(&r.Plan); err != nil {
		return Record{}, fmt.Errorf("read the plan: %w", err)
	}
	for {
		var l Line
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return Record{}, fmt.Errorf("read line %d of the trace: %w", len(r.Lines)+1, err)
		}
		r.Lines = append(r.Lines, l)
	}
}
