package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eniagent/drivers"
)

const goldenDir = "testdata/v1"

// goldenJournal is a journal with a record of every kind, always the same.
func goldenJournal(t *testing.T, dir string) {
	t.Helper()
	ctx := context.Background()
	o := testOptions(nil)
	o.Dir, o.BootID, o.MachineID = dir, "7f0c1c6e-2a4b-4b0e-9a51-0f6a3f1b2c3d", "4c4c4544004b"
	j, err := Open(ctx, o)
	ok(t, err)
	pool := drivers.Key{Kind: "pool", Target: "file//etc/pcidp/config.json#intel.com/sriov"}
	op := operation(24, "driver:vfio-pci override:vfio-pci")
	op.Changes[0].Key.Kind = "driver"
	op.Changes[0].Before = "driver:igb override:"
	op.Changes = append(op.Changes, Change{Key: pool, Class: drivers.Persistent, Before: "absent", After: `{"pciAddresses":["0000:03:00.0"]}`})
	op.Identity[pci(24)] = drivers.Identity{
		Vendor: "0x8086", Device: "0x10c9", Subsystem: "0x8086:0xa03c", MAC: "02:00:00:00:00:01", ENI: "eni-0abc",
		Incarnation: 4242, Netdev: 7, PF: pci(25), PFIncarnation: 4000,
	}
	made, err := j.Begin(ctx, op, []Baseline{
		{Key: op.Changes[0].Key, State: "driver:igb override:", Class: drivers.Volatile, Incarnation: 4242},
		{Key: pool, State: "absent", Class: drivers.Persistent, Unknown: true},
	})
	ok(t, err)
	ok(t, j.Note(made.ID, "write /sys/bus/pci/drivers/vfio-pci/bind: device or resource busy <&>"))
	done := begin(t, j, 1, "9000")
	finish(t, j, done.ID, Done)
	lost := begin(t, j, 2, "9000")
	ok(t, j.End(Closing{ID: lost.ID, State: Reverted, Outcome: "gave up", Count: CountPanic, Until: time.Date(2026, 2, 1, 0, 0, 0, 5000, time.UTC)}))
	ok(t, j.Quarantine(ctx, begin(t, j, 3, "9000").ID, "foreign: 4321"))
	back := begin(t, j, 4, "9000")
	ok(t, j.Reverting(ctx, back.ID, "device or resource busy", false))
	ok(t, j.SetDesired(ctx, Desired{
		Source: "file", Object: "/etc/agent/config.yaml", Generation: "sha256:00", Document: json.RawMessage(`{"interfaces":[{"name":"eth1","mtu":9000}]}`),
		Goals:      []Goal{{Key: mtu(1), State: "9000", Entry: "eth1"}},
		Selections: []Selection{{Selector: "name eth1", Target: pci(1), Identity: drivers.Identity{MAC: "02:00:00:00:00:01"}}},
	}))
	ok(t, j.SetControl(ctx, Control{Action: "released", Target: pci(1), Who: "root", Why: "maintenance", Facts: map[string]string{"generation": "4"}}))
	e := &edit{limit: 1 << 20}
	ok(t, put(e, j.degraded, keyDegraded, &Degradation{Reason: "page 7 is used twice", Aside: "journal.db.corrupt-1767322800-0", Saved: 3, Lost: []string{"open: 1 of 2 records saved"}, Since: o.Now().UTC()}, 1))
	j.pending.slots[e.slots[0]] = struct{}{}
	ok(t, j.Close())
	o.BootID = "0b5d3a9c-93f0-4a57-8f27-61a6a2f3d1aa"
	j, err = Open(ctx, o)
	ok(t, err)
	_, err = j.Attempt(ctx, back.ID)
	ok(t, err)
	ok(t, j.Close())
}

// goldenRecords are one record of each kind.
func goldenRecords() map[string]string {
	return map[string]string{
		"meta": BucketMeta + "/" + keyMeta, "manifest": BucketMeta + "/" + keyManifest, "degraded": BucketMeta + "/" + keyDegraded,
		"intent": BucketOpen + "/" + idKey(1), "reverting": BucketOpen + "/" + idKey(5), "done": BucketDone + "/" + idKey(1), "quarantined": BucketQuarantine + "/" + idKey(4),
		"failure":  BucketFailures + "/" + (&Operation{Changes: operation(2, "9000").Changes}).Fingerprint(),
		"baseline": BucketBaseline + "/pool@file//etc/pcidp/config.json#intel.com/sriov",
		"desired":  BucketDesired + "/file", "control": BucketControl + "/released@" + string(pci(1)),
	}
}

func TestGolden(t *testing.T) {
	if flag.Lookup("update").Value.String() == "true" {
		updateGolden(t)
	}
	seen := map[string]bool{}
	for name, place := range goldenRecords() {
		bucket, key, _ := strings.Cut(place, "/")
		raw, err := os.ReadFile(filepath.Join(goldenDir, name+".rec"))
		ok(t, err)
		rec, err := Decode(bucket, []byte(key), raw)
		ok(t, err)
		again, err := Encode(bucket, []byte(key), rec)
		ok(t, err)
		if !bytes.Equal(raw, again) {
			t.Errorf("%s: encodes to\n%q, was\n%q", name, again, raw)
		}
		seen[name] = true
	}
	if len(seen) != 11 {
		t.Errorf("%d golden records", len(seen))
	}
}

// Today's code still writes the golden journal, and reads the one of then.
func TestGoldenJournal(t *testing.T) {
	path := copyOfFile(t, filepath.Join(goldenDir, FileName))
	rep, err := Verify(path)
	ok(t, err)
	then := readAll(t, path)
	if rep.Records[BucketOpen] != 2 || rep.Records[BucketBaseline] != 2 || rep.Records[BucketMeta] != 3 {
		t.Errorf("%+v", rep)
	}
	dir := filepath.Join(t.TempDir(), "now")
	goldenJournal(t, dir)
	if now := readAll(t, filepath.Join(dir, FileName)); now != then {
		t.Errorf("the format changed; written now:\n%s\nwritten then:\n%s", now, then)
	}
	// And goes on with it.
	o := testOptions(nil)
	o.Dir = filepath.Dir(path)
	ok(t, os.Chmod(o.Dir, 0o700))
	j, err := Open(context.Background(), o)
	ok(t, err)
	begin(t, j, 50, "9000")
	ok(t, j.Close())
}

func copyOfFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	return copyOf(t, b)
}

func updateGolden(t *testing.T) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "golden")
	goldenJournal(t, dir)
	ok(t, os.MkdirAll(goldenDir, 0o755))
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	ok(t, err)
	b = b[:pagesInUse(t, filepath.Join(dir, FileName))*pageSize] // the rest is air
	ok(t, os.WriteFile(filepath.Join(goldenDir, FileName), b, 0o644))
	s, err := OpenReadOnly(filepath.Join(dir, FileName))
	ok(t, err)
	for name, place := range goldenRecords() {
		bucket, key, _ := strings.Cut(place, "/")
		raw := s.raw(slot{bucket, key})
		if name == "manifest" {
			raw, err = codec{}.encode(bucket, key, &s.manifest)
			ok(t, err)
		}
		if raw == nil {
			t.Fatalf("no %s in the golden journal", name)
		}
		ok(t, os.WriteFile(filepath.Join(goldenDir, name+".rec"), raw, 0o644))
	}
}

// What a decoder must refuse although the checksum is right.
func TestDecodeRefuses(t *testing.T) {
	key := idKey(1)
	raw, err := os.ReadFile(filepath.Join(goldenDir, "intent.rec"))
	ok(t, err)
	payload := string(raw[headerSize : len(raw)-crcSize])
	change := func(from, to string) string {
		if !strings.Contains(payload, from) {
			t.Fatalf("%q is not in %s", from, payload)
		}
		return strings.Replace(payload, from, to, 1)
	}
	for name, text := range map[string]string{
		"trailing data":  payload + "{}",
		"trailing space": payload + " ",
		"field twice":    change(`"id":1`, `"id":1,"id":1`),
		"field's case":   change(`"id":1`, `"ID":1`),
		"other number":   change(`"id":1`, `"id":2`),
		"no number":      change(`"id":1`, `"id":0`),
		"state":          change(`"state":"intent"`, `"state":"undone"`),
		"other bucket's": change(`"state":"intent"`, `"state":"done"`),
		"class":          change(`"class":"volatile"`, `"class":"x"`),
		"target":         change(`driver@0000:`, `driver@zzzz:`),
		"attempts":       change(`"attempts":1`, `"attempts":-1`),
		"float":          change(`"attempts":1`, `"attempts":1.0`),
		"no changes":     `{"id":1,"state":"intent","changes":[],"boot_id":"","reason":{"source":"x"},"attempts":1,"created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z"}`,
		"escapes":        change(`<&>`, `\u003c&>`),
		"not json":       "\x00\x01",
		"null":           "null",
		"empty":          "",
		"too large":      `"` + strings.Repeat("x", maxOperation) + `"`,
	} {
		o, err := DecodeOperation(BucketOpen, []byte(key), seal(1, BucketOpen, key, kindOperation, []byte(text)))
		if err == nil || o != nil {
			t.Errorf("%s: believed: %+v", name, o)
			continue
		}
		wantErr(t, err, ErrCorrupt)
	}
	_, err = Decode(BucketOpen, []byte(key), seal(1, BucketOpen, key, kindFailure, []byte(payload)))
	wantErr(t, err, ErrCorrupt)
	_, err = Decode("nowhere", []byte(key), seal(1, "nowhere", key, kindOperation, []byte(payload)))
	wantErr(t, err, ErrCorrupt)
	_, err = DecodeOperation(BucketDesired, []byte("x"), nil)
	wantErr(t, err, ErrCorrupt)
	if _, err = Encode(BucketOpen, []byte(key), "text"); err == nil {
		t.Error("encoded a text")
	}
}
