package journal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
)

// second is an agent that also knows a format 2, which has one field more in
// every record. Agents without it are of format 1, as all are today.
func second(o *Options) { o.codec = codec{forms: []form{{}, {to: addEpoch, from: cutEpoch}}} }

const epoch = `,"epoch":2}`

func addEpoch(_ uint16, payload []byte) ([]byte, error) {
	return append(bytes.TrimSuffix(bytes.Clone(payload), []byte("}")), epoch...), nil
}

func cutEpoch(_ uint16, payload []byte) ([]byte, error) {
	b, found := bytes.CutSuffix(payload, []byte(epoch))
	if !found {
		return nil, errors.New("no epoch")
	}
	return append(bytes.Clone(b), '}'), nil
}

// filled is a journal of format 1 with records in every bucket.
func filled(t *testing.T) *place {
	t.Helper()
	p := filePlace(t)
	goldenJournal(t, p.dir)
	return p
}

func upgrade(t *testing.T, p *place, change ...func(*Options)) (Upgraded, error) {
	t.Helper()
	o := testOptions(change)
	o.Dir = p.dir
	return Upgrade(context.Background(), o)
}

// wantFormat wants every record in the file written in that format.
func wantFormat(t *testing.T, p *place, want byte) {
	t.Helper()
	f, err := openRead(p.path())
	ok(t, err)
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	ok(t, err)
	rows, err := im.rows()
	ok(t, err)
	if len(rows) < 10 {
		t.Fatalf("%d records", len(rows))
	}
	for _, w := range rows {
		if got := w.value[2]; got != want {
			t.Errorf("%s is in format %d, want %d", keyText(w.bucket, w.key), got, want)
		}
	}
}

// contents are the records as a format tells them, without those that every
// commit, or an upgrade, changes by their nature.
func contents(t *testing.T, p *place) string {
	t.Helper()
	var b bytes.Buffer
	ok(t, readNewest(t, p).Export(&b))
	var kept []string
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, `"key":"manifest"`) && !strings.Contains(line, `"key":"journal"`) {
			kept = append(kept, strings.Replace(line, epoch, "}", 1))
		}
	}
	return strings.Join(kept, "")
}

func namesIn(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// A newer agent goes on in the format of the file, so that an older one can
// take over again at any time.
func TestNewerAgentKeepsTheFormat(t *testing.T) {
	p := filled(t)
	j := p.open(t, second)
	finish(t, j, begin(t, j, 50, "9000").ID, Done)
	_, err := j.Attempt(context.Background(), 1)
	ok(t, err)
	ok(t, j.SetDesired(context.Background(), Desired{Source: "file"}))
	ok(t, j.Close())
	wantFormat(t, p, 1)

	j = p.open(t) // an older agent
	wantOpen(t, j, 1, 5)
	if us := j.Unreadable(); len(us) > 0 {
		t.Errorf("%+v", us)
	}
	if o, _ := j.Get(1); o.Attempts < 2 {
		t.Errorf("%d attempts", o.Attempts)
	}
}

func TestUpgrade(t *testing.T) {
	p := filled(t)
	was, then := contents(t, p), readNewest(t, p)
	old, err := os.ReadFile(p.path())
	ok(t, err)
	ok(t, os.WriteFile(p.path()+tempSuffix, []byte("left by a crash"), 0o600))
	ok(t, os.WriteFile(p.path()+backupSuffix, []byte("of an earlier upgrade"), 0o600))
	before := fingerprint(t, p.path())
	plan, err := testOptions([]func(*Options){second}).codec.planUpgrade(p.dir)
	ok(t, err)
	if fingerprint(t, p.path()) != before {
		t.Error("the plan changed the file")
	}

	commits := 0
	got, err := upgrade(t, p, second, func(o *Options) {
		o.Fault = func(point string) error {
			if point == "upgrade:after" {
				commits++
			}
			return nil
		}
	})
	ok(t, err)
	if plan.Done = true; got.From != 1 || got.To != 2 || got.Path != plan.Path || got.Records != plan.Records || got.Backup != plan.Backup || !got.Done {
		t.Errorf("planned %+v, did %+v", plan, got)
	}
	if rows := strings.Count(was, "\n") + 2; got.Records != rows || commits != 1 || readNewest(t, p).Manifest().Sequence != then.Manifest().Sequence+1 {
		t.Errorf("%d records of %d in %d commits", got.Records, rows, commits)
	}
	if now := readNewest(t, p); now.Meta().Format != 2 || now.Meta().MinReader != 2 || !now.Meta().Created.Equal(then.Meta().Created) || now.Manifest().BootID != then.Manifest().BootID {
		t.Errorf("%+v %+v, was %+v %+v", now.Meta(), now.Manifest(), then.Meta(), then.Manifest())
	}
	wantFormat(t, p, 2)
	wantText(t, contents(t, p), was)
	copied, err := os.ReadFile(got.Backup)
	ok(t, err)
	if !bytes.Equal(copied, old) {
		t.Error("the copy is not what was")
	}
	wantText(t, namesIn(t, p.dir), "journal.db journal.db.before-upgrade journal.lock")

	refuses(t, p) // an older agent, as if nothing had been
	wantText(t, contents(t, p), was)
	after := fingerprint(t, p.path())
	got, err = upgrade(t, p, second)
	if ok(t, err); got.Needed() || got.Done || fingerprint(t, p.path()) != after {
		t.Errorf("upgraded again: %+v", got)
	}

	j := p.open(t, second) // the newer one goes on in the new format
	wantOpen(t, j, 1, 5)
	if b, found := j.Baseline(drivers.Key{Kind: "driver", Target: pci(24)}); found {
		t.Errorf("a baseline of another boot: %+v", b)
	}
	finish(t, j, begin(t, j, 51, "9000").ID, Done)
	ok(t, j.Close())
	wantFormat(t, p, 2)

	// The copy is a journal for the older agent.
	ok(t, os.Rename(got.Path+backupSuffix, got.Path))
	wantOpen(t, p.open(t), 1, 5)
}

func readNewest(t *testing.T, p *place) *Snapshot {
	t.Helper()
	s, err := testOptions([]func(*Options){second}).codec.openReadOnly(p.path())
	ok(t, err)
	return s
}

// Whatever stops an upgrade, the journal is of one format as a whole.
func TestUpgradeStopped(t *testing.T) {
	broken := errors.New("no more")
	for point, format := range map[string]byte{"upgrade:before": 1, "upgrade:after": 2} {
		t.Run(point, func(t *testing.T) {
			p := filled(t)
			was := contents(t, p)
			_, err := upgrade(t, p, second, func(o *Options) {
				o.Fault = func(at string) error {
					if at == point {
						return broken
					}
					return nil
				}
			})
			wantErr(t, err, ErrIndeterminate, backupSuffix)
			wantFormat(t, p, format)
			wantText(t, contents(t, p), was)
			if _, err = upgrade(t, p, second); err != nil {
				t.Error(err)
			}
			wantFormat(t, p, 2)
			wantText(t, contents(t, p), was)
		})
	}
	t.Run("disk full", func(t *testing.T) {
		p := filled(t)
		was := readAll(t, p.path())
		full := true
		_, err := upgrade(t, p, second, func(o *Options) {
			o.Fault = func(string) error {
				if full { // it has room again a moment later
					full = false
					return syscall.ENOSPC
				}
				return nil
			}
		})
		wantErr(t, err, ErrNoSpace)
		wantFormat(t, p, 1)
		wantText(t, readAll(t, p.path()), was)
	})
	t.Run("no copy", func(t *testing.T) {
		p := filled(t)
		before := fingerprint(t, p.path())
		ok(t, os.Mkdir(p.path()+backupSuffix, 0o700)) // nothing can be renamed over it
		_, err := upgrade(t, p, second)
		if err == nil || !strings.Contains(err.Error(), "which is unchanged") || fingerprint(t, p.path()) != before {
			t.Errorf("went on without a copy: %v", err)
		}
	})
}

func TestUpgradeRefuses(t *testing.T) {
	t.Run("nothing to do", func(t *testing.T) {
		p := filled(t)
		before := fingerprint(t, p.path())
		u, err := upgrade(t, p)
		if ok(t, err); u.Needed() || u.Done || u.From != 1 || u.To != 1 || u.Backup != "" {
			t.Errorf("%+v", u)
		}
		if fingerprint(t, p.path()) != before {
			t.Error("the file was changed")
		}
	})
	t.Run("agent runs", func(t *testing.T) {
		p := filled(t)
		p.open(t)
		_, err := upgrade(t, p, second, func(o *Options) { o.LockTimeout = 1 })
		wantErr(t, err, ErrLocked, "pid")
	})
	t.Run("no journal", func(t *testing.T) {
		_, err := upgrade(t, filePlace(t), second)
		wantErr(t, err, ErrNotExist)
	})
	t.Run("damaged", func(t *testing.T) {
		p := filled(t)
		flip(t, p.path(), []byte(`"state":"intent"`))
		before := fingerprint(t, p.path())
		_, err := upgrade(t, p, second)
		wantErr(t, err, ErrCorrupt)
		if fingerprint(t, p.path()) != before {
			t.Error("the file was changed")
		}
		wantText(t, namesIn(t, p.dir), "journal.db journal.lock")
	})
}

// A fresh journal has the newest format, one that was saved the one it had.
func TestFormatOfNewFiles(t *testing.T) {
	p := filePlace(t)
	ok(t, p.open(t, second).Close())
	if m := readNewest(t, p).Meta(); m.Format != 2 || m.MinReader != 2 {
		t.Errorf("%+v", m)
	}
	refuses(t, p)

	p = filled(t)
	flip(t, p.path(), []byte(`gave up`))
	ok(t, p.open(t, second).Close())
	wantFormat(t, p, 1)
	wantOpen(t, p.open(t), 1, 5)

	p = filled(t)
	_, err := upgrade(t, p, second)
	ok(t, err)
	flip(t, p.path(), []byte(`gave up`))
	refuses(t, p) // an older agent, also a damaged one
	j := p.open(t, second)
	if _, degraded := j.Degraded(); !degraded {
		t.Error("not degraded")
	}
	wantOpen(t, j, 1, 5)
	ok(t, j.Close())
	wantFormat(t, p, 2)
	refuses(t, p)
}

// plant puts a record of a newer agent into an open journal.
func plant(t *testing.T, j *Journal, s slot, raw []byte) {
	t.Helper()
	ok(t, j.place(s.bucket, s.key, nil, raw))
	j.pending.slots[s] = struct{}{}
}

// withField is a record as a newer agent of the same format writes it, that
// has added a field.
func withField(s slot, raw []byte) []byte {
	payload := bytes.TrimSuffix(raw[headerSize:len(raw)-crcSize], []byte("}"))
	return seal(1, s.bucket, s.key, uint16(raw[4])<<8|uint16(raw[5]), append(bytes.Clone(payload), `,"added":{"by":"v9"}}`...))
}

// A record with a field that this agent does not know is never written back
// without it, and what it is about is left alone.
func TestAddedField(t *testing.T) {
	ctx := context.Background()
	p := filled(t)
	j := p.open(t)
	planted := map[slot][]byte{}
	for _, w := range j.rows() {
		if s := (slot{w.bucket, w.key}); w.bucket != BucketMeta {
			planted[s] = withField(s, w.value)
			plant(t, j, s, planted[s])
		}
	}
	ok(t, j.Close())
	if flag.Lookup("update").Value.String() == "true" {
		keepFile(t, p.path(), "testdata/files/added") // for tests of those who use a journal
	}
	now := readAll(t, p.path())
	wantText(t, readAll(t, goldenFile(t, "testdata/files/added")), now)

	j = p.open(t, func(o *Options) {
		o.Limits = Limits{Done: 2, Open: 1, Quarantined: 1, Failures: 1, Baselines: 1, Sources: 1, Controls: 1}
	})
	if us := j.Unreadable(); len(us) != len(planted) || len(planted) < 9 {
		t.Fatalf("%d of %d are left alone: %+v", len(us), len(planted), us)
	}
	if _, degraded := j.Degraded(); !degraded || len(j.Operations())+len(j.Quarantined())+len(j.Controls())+len(j.Baselines()) > 0 {
		t.Error("read what cannot be read") // degraded: the golden journal is
	}
	for _, n := range []int{1, 3, 4, 24} { // released, quarantined, reverting, open
		_, err := j.Begin(ctx, operation(n, "9000"), nil)
		wantErr(t, err, ErrClaimed)
		wantErr(t, err, ErrNewer, `unknown field "added"`)
	}
	wantErr(t, j.SetDesired(ctx, Desired{Source: "file"}), ErrNewer)
	wantErr(t, j.SetControl(ctx, Control{Action: "released", Target: pci(1)}), ErrNewer)
	_, err := j.ClearControl(ctx, "released", pci(1))
	wantErr(t, err, ErrNewer)
	_, err = j.Begin(ctx, operation(2, "1"), []Baseline{{Key: drivers.Key{Kind: "driver", Target: pci(24)}, Class: drivers.Volatile}})
	wantErr(t, err, ErrNewer)
	for _, drop := range []func() (int, error){
		func() (int, error) { return j.DropBaselines(ctx, func(Baseline) bool { return true }) },
		func() (int, error) { return j.ClearFailures(ctx, func(Failure) bool { return true }) },
	} {
		if n, err := drop(); n > 0 || err != nil {
			t.Errorf("dropped %d, %v", n, err)
		}
	}
	ok(t, j.DropDesired(ctx, "file"))
	// Others go on, whatever room the newer agent left; the goal of 2 is counted
	// in a record that cannot be.
	for i := range 5 {
		o := begin(t, j, 50+i, "9000")
		ok(t, j.End(Closing{ID: o.ID, State: Reverted, Outcome: "busy", Count: CountRevert}))
		finish(t, j, begin(t, j, 2, "9000").ID, Done)
	}
	ok(t, j.Close())
	wantKept(t, p, planted)
	// An upgrade of the agent that could not read them does not touch them either.
	u, err := upgrade(t, p, second)
	if ok(t, err); len(u.Kept) != len(planted) {
		t.Errorf("%d kept", len(u.Kept))
	}
	wantKept(t, p, planted)
}

func wantKept(t *testing.T, p *place, planted map[slot][]byte) {
	t.Helper()
	for s, raw := range planted {
		if got := rawIn(t, p, s); !bytes.Equal(got, raw) {
			t.Errorf("%s is %q, was %q", keyText(s.bucket, s.key), got, raw)
		}
	}
}

func rawIn(t *testing.T, p *place, s slot) []byte {
	t.Helper()
	f, err := openRead(p.path())
	ok(t, err)
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	ok(t, err)
	rows, err := im.rows()
	ok(t, err)
	for _, w := range rows {
		if w.bucket == s.bucket && w.key == s.key {
			return w.value
		}
	}
	return nil
}

// The records of the journal as a whole are in every commit: with a field
// that is not known, the file is refused.
func TestAddedFieldInMeta(t *testing.T) {
	for _, key := range []string{keyMeta, keyManifest, keyDegraded} {
		p := filled(t)
		s := slot{BucketMeta, key}
		rewriteFile(t, p, s, withField(s, rawIn(t, p, s)))
		refuses(t, p)
	}
}

func rewriteFile(t *testing.T, p *place, s slot, raw []byte) {
	t.Helper()
	id, err := checkFile(p.path())
	ok(t, err)
	b, err := openBolt(p.path(), id, testOptions(nil).withDefaults())
	ok(t, err)
	ok(t, b.commit([]write{{s.bucket, s.key, raw}}))
	ok(t, b.close())
}

// A standing order of a newer agent for the whole node holds all of it.
func TestNewerOrderHoldsItsTarget(t *testing.T) {
	ctx := context.Background()
	p := memoryPlace()
	j := p.open(t)
	for _, c := range []Control{{Action: "paused", Target: pci(1)}, {Action: "paused"}} {
		ok(t, j.SetControl(ctx, c))
	}
	one, node := slot{BucketControl, "paused@" + string(pci(1))}, slot{BucketControl, "paused@"}
	plant(t, j, one, withField(one, j.raw(one)))
	ok(t, j.Close())
	j = p.open(t)
	begin(t, j, 2, "1")
	_, err := j.Begin(ctx, operation(1, "1"), nil)
	wantErr(t, err, ErrNewer, string(pci(1)))
	plant(t, j, node, withField(node, j.raw(node)))
	ok(t, j.Close())
	_, err = p.open(t).Begin(ctx, operation(3, "1"), nil)
	wantErr(t, err, ErrNewer, "control/paused@")
}

// Where a field is new does not matter, and damage stays damage.
func TestAddedFieldOrDamage(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(goldenDir, "intent.rec"))
	ok(t, err)
	payload := string(raw[headerSize : len(raw)-crcSize])
	for at, want := range map[string]error{
		`"id":1` + `|"id":1,"x":2`:                          ErrNewer,
		`"key":"driver|"x":[{}],"key":"driver`:              ErrNewer,
		`"vendor":|"x":null,"vendor":`:                      ErrNewer,
		`"source":"file"` + `|"source":"file","x":{"y":""}`: ErrNewer,
		`"id":1` + `|"id":"1","x":2`:                        ErrCorrupt,
		`"id":1` + `|"x":2,"id":`:                           ErrCorrupt,
		`"id":1` + `|"x":2,"id":1}{"id":1`:                  ErrCorrupt,
	} {
		from, to, _ := strings.Cut(at, "|")
		if !strings.Contains(payload, from) {
			t.Fatalf("%q is not in %s", from, payload)
		}
		_, err := Decode(BucketOpen, []byte(idKey(1)), seal(1, BucketOpen, idKey(1), kindOperation, []byte(strings.Replace(payload, from, to, 1))))
		wantErr(t, err, want)
		if errors.Is(err, ErrNewer) == errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", to, err)
		}
	}
}
