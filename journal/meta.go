package journal

import (
	"fmt"
	"time"
)

// Meta says whose journal this is and who may read it.
type Meta struct {
	Format    int       `json:"format"`     // what agents write here, until an upgrade
	MinReader int       `json:"min_reader"` // agents that know less refuse the file
	MachineID string    `json:"machine_id,omitempty"`
	Created   time.Time `json:"created"`
	Agent     string    `json:"agent,omitempty"` // version that created it
	// RecoveredBoot is the boot whose duties (what a reboot leaves to do before
	// anything else) are done.
	RecoveredBoot string `json:"recovered_boot,omitempty"`
}

func (m *Meta) validate() error {
	if m.Format < 1 || m.MinReader < 1 || m.MinReader > m.Format {
		return fmt.Errorf("format %d for readers of %d: %w", m.Format, m.MinReader, ErrInvalid)
	}
	return firstError(
		checkText("machine id", m.MachineID, 0, maxName),
		checkText("agent", m.Agent, 0, maxName),
		checkText("recovered boot", m.RecoveredBoot, 0, maxName),
		checkTime("created", m.Created),
	)
}

// Manifest is written by each commit and says what the file holds after it, so
// that a record that is gone is noticed. A file that is one commit older (the
// fallback of bbolt when its newest meta page is damaged) has the manifest of
// that commit and is legal.
type Manifest struct {
	Sequence uint64           `json:"sequence"` // commits so far
	NextID   uint64           `json:"next_id"`
	BootID   string           `json:"boot_id,omitempty"` // of the last commit
	Agent    string           `json:"agent,omitempty"`
	Written  time.Time        `json:"written"`
	Buckets  map[string]Tally `json:"buckets"`
}

// Tally is the number and the sum of the records of a bucket.
type Tally struct {
	Count  int    `json:"count"`
	Digest string `json:"digest"`
}

func (m *Manifest) validate() error {
	if m.Sequence == 0 || m.NextID == 0 {
		return fmt.Errorf("sequence %d, next number %d: %w", m.Sequence, m.NextID, ErrInvalid)
	}
	for name, t := range m.Buckets {
		if t.Count < 0 || len(t.Digest) != digestLength {
			return fmt.Errorf("tally of %q: %w", name, ErrInvalid)
		}
		if err := firstError(checkText("bucket", name, 1, maxName), checkText("digest", t.Digest, 1, digestLength)); err != nil {
			return err
		}
	}
	return firstError(
		checkText("boot id", m.BootID, 0, maxName),
		checkText("agent", m.Agent, 0, maxName),
		checkTime("written", m.Written),
	)
}

// Degradation says that a journal was unusable and what was saved of it. Until
// somebody acknowledges it, the agent does not know everything it once did.
type Degradation struct {
	Reason string    `json:"reason"`
	Aside  string    `json:"aside,omitempty"` // where the damaged file is
	Saved  int       `json:"saved"`           // records that were brought over
	Lost   []string  `json:"lost,omitempty"`  // what could not be
	Since  time.Time `json:"since"`
	// Who acknowledged it, why and when; empty while nobody has.
	Who          string    `json:"who,omitempty"`
	Why          string    `json:"why,omitempty"`
	Acknowledged time.Time `json:"acknowledged,omitzero"`
}

// maxLost bounds the list of what was lost; the rest is a number.
const maxLost = 32

func (d *Degradation) validate() error {
	if len(d.Lost) > maxLost+1 || d.Saved < 0 {
		return fmt.Errorf("%d lost, %d saved: %w", len(d.Lost), d.Saved, ErrInvalid)
	}
	for _, s := range d.Lost {
		if err := checkText("lost", s, 0, maxName); err != nil {
			return err
		}
	}
	return firstError(
		checkText("reason", d.Reason, 1, maxText),
		checkText("aside", d.Aside, 0, maxText),
		checkText("who", d.Who, 0, maxName),
		checkText("why", d.Why, 0, maxText),
		checkTime("since", d.Since),
	)
}
