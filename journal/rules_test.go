package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"eniagent/drivers"
)

// many are n names that sort as they are numbered.
func many(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("n%06d", i))
	}
	return names
}

// changed is a record with a change.
func changed[T any](r T, change func(*T)) *T {
	change(&r)
	return &r
}

// TestRulesOfARecord: each bound of each record, from both sides.
func TestRulesOfARecord(t *testing.T) {
	now := clock()()
	long, longer := strings.Repeat("x", maxName), strings.Repeat("x", maxName+1)
	text, texter := strings.Repeat("x", maxText), strings.Repeat("x", maxText+1)
	year0, year10000 := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	id := drivers.Identity{Vendor: "0x8086"}

	op := operation(1, "9000")
	op.ID, op.State, op.BootID, op.Created, op.Updated = 1, Intent, "b", now, now
	ofOp := func(change func(*Operation)) record { o := op.clone(); change(&o); return &o }

	failure := Failure{Fingerprint: strings.Repeat("a", digestLength), Keys: []drivers.Key{mtu(1), mtu(2)}, Updated: now}
	ofFailure := func(change func(*Failure)) record { f := failure.clone(); change(&f); return &f }

	baseline := Baseline{Key: mtu(1), State: "1500", Class: drivers.Volatile, Created: now}
	ofBaseline := func(change func(*Baseline)) record { return changed(baseline, change) }

	control := Control{Action: "paused", Created: now}
	ofControl := func(change func(*Control)) record { return changed(control, change) }
	facts := func(n int) map[string]string {
		m := map[string]string{}
		for _, name := range many(n) {
			m[name] = ""
		}
		return m
	}

	desired := Desired{Source: "file", Updated: now}
	ofDesired := func(change func(*Desired)) record { return changed(desired, change) }
	goals := func(ns ...int) (gs []Goal) {
		for _, n := range ns {
			gs = append(gs, Goal{Key: mtu(n), State: "9000"})
		}
		return gs
	}
	selections := func(names ...string) (ss []Selection) {
		for _, name := range names {
			ss = append(ss, Selection{Selector: name, Target: pci(1)})
		}
		return ss
	}
	document := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }

	meta := Meta{Format: 2, MinReader: 1, Created: now}
	ofMeta := func(change func(*Meta)) record { return changed(meta, change) }

	digest := strings.Repeat("0", digestLength)
	manifest := Manifest{Sequence: 1, NextID: 1, Written: now}
	ofManifest := func(change func(*Manifest)) record { return changed(manifest, change) }

	degraded := Degradation{Reason: "torn", Since: now}
	ofDegraded := func(change func(*Degradation)) record { return changed(degraded, change) }

	for _, tc := range []struct {
		name  string
		legal bool
		r     record
	}{
		{"an operation", true, ofOp(func(*Operation) {})},
		{"an operation without a number", false, ofOp(func(o *Operation) { o.ID = 0 })},
		{"an operation in no state", false, ofOp(func(o *Operation) { o.State = "lost" })},
		{"an operation that was never tried", true, ofOp(func(o *Operation) { o.Attempts = 0 })},
		{"fewer attempts than none", false, ofOp(func(o *Operation) { o.Attempts, o.UndoneAt = -1, -1 })},
		{"the most attempts", true, ofOp(func(o *Operation) { o.Attempts = maxCount })},
		{"more attempts", false, ofOp(func(o *Operation) { o.Attempts = maxCount + 1 })},
		{"undone at the last attempt", true, ofOp(func(o *Operation) { o.Attempts, o.UndoneAt = 2, 2 })},
		{"undone at an attempt to come", false, ofOp(func(o *Operation) { o.Attempts, o.UndoneAt = 2, 3 })},
		{"undone before it was tried", false, ofOp(func(o *Operation) { o.UndoneAt = -1 })},
		{"no changes", false, ofOp(func(o *Operation) { o.Changes = nil })},
		{"a change that is there twice", false, ofOp(func(o *Operation) { o.Changes = append(o.Changes, o.Changes[0]) })},
		{"changes out of order", false, ofOp(func(o *Operation) { o.Changes = append(o.Changes, Change{Key: mtu(0), Class: drivers.Volatile}) })},
		{"a change of no class", false, ofOp(func(o *Operation) { o.Changes[0].Class = "" })},
		{"the longest state", true, ofOp(func(o *Operation) { o.Changes[0].After = drivers.State(strings.Repeat("x", maxState)) })},
		{"a longer state", false, ofOp(func(o *Operation) { o.Changes[0].After = drivers.State(strings.Repeat("x", maxState+1)) })},
		{"an identity of no target", false, ofOp(func(o *Operation) { o.Identity = map[drivers.Target]drivers.Identity{"": id} })},
		{"an identity with a PF", true, ofOp(func(o *Operation) { o.Identity[pci(1)] = drivers.Identity{PF: pci(2)} })},
		{"an identity with a PF that is none", false, ofOp(func(o *Operation) { o.Identity[pci(1)] = drivers.Identity{PF: "../.."} })},
		{"an identity with the longest MAC", true, ofOp(func(o *Operation) { o.Identity[pci(1)] = drivers.Identity{MAC: long} })},
		{"an identity with a longer MAC", false, ofOp(func(o *Operation) { o.Identity[pci(1)] = drivers.Identity{MAC: longer} })},
		{"nobody's operation", false, ofOp(func(o *Operation) { o.Reason.Source = "" })},
		{"the longest error", true, ofOp(func(o *Operation) { o.LastError = text })},
		{"a longer error", false, ofOp(func(o *Operation) { o.LastError = texter })},
		{"an error that is no text", false, ofOp(func(o *Operation) { o.LastError = "\xff" })},
		{"made before all years", false, ofOp(func(o *Operation) { o.Created = year0 })},
		{"changed after all years", false, ofOp(func(o *Operation) { o.Updated = year10000 })},

		{"a failure", true, ofFailure(func(*Failure) {})},
		{"a failure of another length", false, ofFailure(func(f *Failure) { f.Fingerprint += "a" })},
		{"a failure of nothing", false, ofFailure(func(f *Failure) { f.Keys = nil })},
		{"a failure of a key twice", false, ofFailure(func(f *Failure) { f.Keys[1] = f.Keys[0] })},
		{"a failure out of order", false, ofFailure(func(f *Failure) { f.Keys[1] = mtu(0) })},
		{"a failure of no kind", false, ofFailure(func(f *Failure) { f.Keys[0].Kind = "" })},
		{"the most reverts and panics", true, ofFailure(func(f *Failure) { f.Reverts, f.Panics = maxCount, maxCount })},
		{"more reverts", false, ofFailure(func(f *Failure) { f.Reverts = maxCount + 1 })},
		{"more panics", false, ofFailure(func(f *Failure) { f.Panics = maxCount + 1 })},
		{"fewer reverts than none", false, ofFailure(func(f *Failure) { f.Reverts = -1 })},
		{"fewer panics than none", false, ofFailure(func(f *Failure) { f.Panics = -1 })},
		{"a failure in the longest boot", true, ofFailure(func(f *Failure) { f.LastBoot = long })},
		{"a failure in a longer boot", false, ofFailure(func(f *Failure) { f.LastBoot = longer })},

		{"a baseline", true, ofBaseline(func(*Baseline) {})},
		{"a baseline of no class", false, ofBaseline(func(b *Baseline) { b.Class = "" })},
		{"a baseline of no target", false, ofBaseline(func(b *Baseline) { b.Key.Target = "" })},

		{"an order", true, ofControl(func(*Control) {})},
		{"an order for a target", true, ofControl(func(c *Control) { c.Target = pci(1) })},
		{"an order for no target", false, ofControl(func(c *Control) { c.Target = "../.." })},
		{"an order to do nothing", false, ofControl(func(c *Control) { c.Action = "" })},
		{"the longest action", true, ofControl(func(c *Control) { c.Action = strings.Repeat("a", 64) })},
		{"a longer action", false, ofControl(func(c *Control) { c.Action = strings.Repeat("a", 65) })},
		{"an action from a to z", true, ofControl(func(c *Control) { c.Action = "az.9_-" })},
		{"another from z", true, ofControl(func(c *Control) { c.Action = "za" })},
		{"an action that begins with a digit", false, ofControl(func(c *Control) { c.Action = "9" })},
		{"an action in capitals", false, ofControl(func(c *Control) { c.Action = "pauseD" })},
		{"an action past z", false, ofControl(func(c *Control) { c.Action = "{" })},
		{"the most facts", true, ofControl(func(c *Control) { c.Facts = facts(maxFacts) })},
		{"more facts", false, ofControl(func(c *Control) { c.Facts = facts(maxFacts + 1) })},
		{"a fact without a name", false, ofControl(func(c *Control) { c.Facts = map[string]string{"": ""} })},

		{"a source", true, ofDesired(func(*Desired) {})},
		{"a source without a name", false, ofDesired(func(d *Desired) { d.Source = "" })},
		{"goals", true, ofDesired(func(d *Desired) { d.Goals = goals(1, 2) })},
		{"a goal twice", false, ofDesired(func(d *Desired) { d.Goals = goals(1, 1) })},
		{"goals out of order", false, ofDesired(func(d *Desired) { d.Goals = goals(2, 1) })},
		{"a goal of no target", false, ofDesired(func(d *Desired) { d.Goals = []Goal{{Key: drivers.Key{Kind: "mtu"}}} })},
		{"selections", true, ofDesired(func(d *Desired) { d.Selections = selections("a", "b") })},
		{"a selection twice", false, ofDesired(func(d *Desired) { d.Selections = selections("a", "a") })},
		{"selections out of order", false, ofDesired(func(d *Desired) { d.Selections = selections("b", "a") })},
		{"a selection of nothing", false, ofDesired(func(d *Desired) { d.Selections = selections("") })},
		{"the most selections", true, ofDesired(func(d *Desired) { d.Selections = selections(many(maxGoals)...) })},
		{"more selections", false, ofDesired(func(d *Desired) { d.Selections = selections(many(maxGoals + 1)...) })},
		{"the longest document", true, ofDesired(func(d *Desired) { d.Document = document(maxDocument) })},
		{"a longer document", false, ofDesired(func(d *Desired) { d.Document = document(maxDocument + 1) })},
		{"a document that is no JSON", false, ofDesired(func(d *Desired) { d.Document = []byte("{") })},
		{"a document that is empty", false, ofDesired(func(d *Desired) { d.Document = []byte{} })},

		{"a journal", true, ofMeta(func(*Meta) {})},
		{"a journal for its own readers only", true, ofMeta(func(m *Meta) { m.MinReader = 2 })},
		{"a journal for readers to come", false, ofMeta(func(m *Meta) { m.MinReader = 3 })},
		{"a journal for no reader", false, ofMeta(func(m *Meta) { m.MinReader = 0 })},
		{"a journal of no format", false, ofMeta(func(m *Meta) { m.Format, m.MinReader = 0, 0 })},
		{"a journal of the longest machine", true, ofMeta(func(m *Meta) { m.MachineID = long })},
		{"a journal of a longer machine", false, ofMeta(func(m *Meta) { m.MachineID = longer })},

		{"a manifest", true, ofManifest(func(*Manifest) {})},
		{"a manifest before all commits", false, ofManifest(func(m *Manifest) { m.Sequence = 0 })},
		{"a manifest without a next number", false, ofManifest(func(m *Manifest) { m.NextID = 0 })},
		{"a tally of nothing", true, ofManifest(func(m *Manifest) { m.Buckets = map[string]Tally{"open": {0, digest}} })},
		{"a tally of less", false, ofManifest(func(m *Manifest) { m.Buckets = map[string]Tally{"open": {-1, digest}} })},
		{"a tally without a digest", false, ofManifest(func(m *Manifest) { m.Buckets = map[string]Tally{"open": {0, ""}} })},
		{"a tally of no bucket", false, ofManifest(func(m *Manifest) { m.Buckets = map[string]Tally{"": {0, digest}} })},

		{"a degradation", true, ofDegraded(func(*Degradation) {})},
		{"a degradation without a reason", false, ofDegraded(func(d *Degradation) { d.Reason = "" })},
		{"the most that is lost", true, ofDegraded(func(d *Degradation) { d.Lost = many(maxLost + 1) })},
		{"more that is lost", false, ofDegraded(func(d *Degradation) { d.Lost = many(maxLost + 2) })},
		{"a longer loss", false, ofDegraded(func(d *Degradation) { d.Lost = []string{longer} })},
		{"less saved than nothing", false, ofDegraded(func(d *Degradation) { d.Saved = -1 })},
	} {
		if err := tc.r.validate(); (err == nil) != tc.legal || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestLargestRecord: a record of the most bytes is encoded and read; one of a
// byte more is neither.
func TestLargestRecord(t *testing.T) {
	largest := Control{Action: "paused", Facts: map[string]string{}, Created: clock()()}
	key := largest.Name()
	c := codec{}
	size := func() int {
		raw, err := marshal(&largest)
		ok(t, err)
		return headerSize + len(raw) + crcSize
	}
	names := many(maxFacts)
	for _, name := range names {
		largest.Facts[name] = strings.Repeat("x", maxText-64)
	}
	spare := maxOperation - size()
	for _, name := range names {
		n := min(spare, 64)
		largest.Facts[name] += strings.Repeat("x", n)
		spare -= n
	}
	if size() != maxOperation {
		t.Fatalf("made %d bytes", size())
	}
	raw, err := c.encode(BucketControl, key, &largest)
	ok(t, err)
	if _, err := c.decode(BucketControl, key, raw); err != nil {
		t.Fatalf("the largest is not read: %v", err)
	}
	largest.Why = "x"
	_, err = c.encode(BucketControl, key, &largest)
	wantErr(t, err, ErrInvalid, "at most")
	payload, err := marshal(&largest)
	ok(t, err)
	_, err = c.decode(BucketControl, key, seal(1, BucketControl, key, kindControl, payload))
	wantErr(t, err, ErrCorrupt, "at most")
}

func TestClip(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{strings.Repeat("x", maxText), strings.Repeat("x", maxText)},
		{strings.Repeat("x", maxText+1), strings.Repeat("x", maxText-3) + "..."},
		{strings.Repeat("x", maxText-4) + "ä" + "xxxx", strings.Repeat("x", maxText-4) + "..."}, // not half a letter
		{"a\xffb", "a\uFFFDb"},
	} {
		if got := clip(tc.in); got != tc.want {
			t.Errorf("%d bytes become %d: ...%q", len(tc.in), len(got), got[max(0, len(got)-8):])
		}
	}
}

func TestPlaceAsText(t *testing.T) {
	for _, tc := range []struct{ bucket, key, want string }{
		{BucketOpen, idKey(258), "open/258"},
		{BucketOpen, "short", "open/short"},
		{BucketBaseline, "mtu@0000:02:00.0", "baseline/mtu@0000:02:00.0"},
		{BucketControl, "a b", `control/"a b"`},
		{BucketControl, "12345678", "control/12345678"}, // no number there
		{BucketDesired, strings.Repeat("x", maxName), "desired/" + strings.Repeat("x", maxName)},
		{BucketDesired, strings.Repeat("x", maxName+1), `desired/"` + strings.Repeat("x", maxName) + `"`},
		{BucketDesired, "a\nb", `desired/"a\nb"`},
	} {
		if got := keyText(tc.bucket, tc.key); got != tc.want {
			t.Errorf("it is %s, want %s", got, tc.want)
		}
	}
}
