package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"eniagent/drivers"
)

// TestListsAreInOrderAndCopies: whoever asks twice gets the same, whatever he
// did with the first answer.
func TestListsAreInOrderAndCopies(t *testing.T) {
	ctx := context.Background()
	j := memoryPlace().open(t)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(12) {
		o, err := j.Begin(ctx, operation(i, "9000"), []Baseline{{Key: mtu(i), State: "1500", Class: drivers.Volatile}})
		ok(t, err)
		ok(t, j.End(Closing{ID: o.ID, State: Reverted, Count: CountRevert}))
		begin(t, j, i, "9000")
		ok(t, j.Quarantine(ctx, begin(t, j, 100+i, "9000").ID, "foreign"))
		ok(t, j.SetControl(ctx, Control{Action: "paused", Target: pci(i), Facts: map[string]string{"a": "1"}}))
		ok(t, j.SetDesired(ctx, Desired{
			Source: fmt.Sprintf("source %02d", i), Document: []byte(`{}`),
			Goals: []Goal{{Key: mtu(i), State: "9000"}}, Selections: []Selection{{Selector: "a", Target: pci(i)}},
		}))
	}
	before := snapshotOf(j)
	names := map[string][]string{}
	for _, o := range j.Operations() {
		names["open"] = append(names["open"], idKey(o.ID))
		o.Changes[0].After, o.Identity[pci(0)] = "spoilt", drivers.Identity{}
	}
	for _, o := range j.Quarantined() {
		names["quarantined"] = append(names["quarantined"], idKey(o.ID))
	}
	for _, f := range j.Failures() {
		names["failures"] = append(names["failures"], f.Fingerprint)
		f.Keys[0] = mtu(99)
		g, _ := j.Failure(f.Fingerprint)
		g.Keys[0] = mtu(99)
	}
	for _, b := range j.Baselines() {
		names["baselines"] = append(names["baselines"], string(b.Key.Target))
	}
	for _, c := range j.Controls() {
		names["controls"] = append(names["controls"], c.Name())
		c.Facts["a"] = "spoilt"
		d, _ := j.Control(c.Action, c.Target)
		d.Facts["a"] = "spoilt"
	}
	for _, d := range j.Sources() {
		names["sources"] = append(names["sources"], d.Source)
		d.Goals[0].State, d.Selections[0].Selector, d.Document[0] = "spoilt", "spoilt", '['
		d, _ = j.Desired(d.Source)
		d.Goals[0].State, d.Selections[0].Selector, d.Document[0] = "spoilt", "spoilt", '['
	}
	for what, ns := range names {
		if len(ns) != 12 || !slices.IsSorted(ns) {
			t.Errorf("%d %s: %q", len(ns), what, ns)
		}
	}
	if len(names) != 6 {
		t.Errorf("lists of %d kinds", len(names))
	}
	if fmt.Sprint(before) != fmt.Sprint(snapshotOf(j)) {
		t.Error("what was handed out is the journal's own")
	}
}

// TestAPanicIsCountedOnceABoot, however many operations with the goal were open
// in it.
func TestAPanicIsCountedOnceABoot(t *testing.T) {
	p := memoryPlace()
	var fp string
	panics := func(boot string) int {
		j := p.open(t, func(o *Options) { o.BootID = boot })
		for range 2 {
			o := begin(t, j, 1, "9000")
			fp = o.Fingerprint()
			ok(t, j.End(Closing{ID: o.ID, State: Superseded, Count: CountPanic}))
		}
		ok(t, j.Close())
		f, _ := j.Failure(fp)
		if f.LastBoot != boot {
			t.Errorf("the last boot is %s", f.LastBoot)
		}
		return f.Panics
	}
	if a, b := panics("boot-1"), panics("boot-2"); a != 1 || b != 2 {
		t.Errorf("%d panics after a boot, %d after two", a, b)
	}
}

// TestTheFailureNotSeenForLongestIsForgotten: neither the oldest nor one of
// which there is news.
func TestTheFailureNotSeenForLongestIsForgotten(t *testing.T) {
	j := memoryPlace().open(t, func(o *Options) { o.Limits.Failures = 2 })
	for _, n := range []int{1, 2, 1, 3} {
		ok(t, j.End(Closing{ID: begin(t, j, n, "9000").ID, State: Reverted, Count: CountRevert}))
	}
	var left []drivers.Target
	for _, f := range j.Failures() {
		left = append(left, f.Keys[0].Target)
	}
	slices.Sort(left)
	if !slices.Equal(left, []drivers.Target{pci(1), pci(3)}) {
		t.Errorf("left are %v", left)
	}
}

// TestNoRoomLeavesTheRing: an operation that made room for another which was
// then not closed is still there.
func TestNoRoomLeavesTheRing(t *testing.T) {
	full := false
	j := memoryPlace().open(t, func(o *Options) {
		o.Limits.Done = 2
		o.Fault = func(point string) error {
			if full && strings.HasSuffix(point, ":before") {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	for n := range 3 {
		finish(t, j, begin(t, j, n, "9000").ID, Done)
	}
	ok(t, j.SetControl(context.Background(), Control{Action: "paused"}))
	last := begin(t, j, 3, "9000")
	full = true
	_, err := j.Begin(context.Background(), operation(4, "9000"), nil, Closing{ID: last.ID, State: Done})
	wantErr(t, err, ErrNoSpace)
	for id, want := range map[uint64]OperationState{1: "", 2: Done, 3: Done, 4: Intent, 5: ""} {
		if o, _ := j.Get(id); o.State != want {
			t.Errorf("operation %d is %q, want %q", id, o.State, want)
		}
	}
	// What changes nothing needs no room, and does not hear of that commit.
	ok(t, j.SetControl(context.Background(), Control{Action: "paused"}))
	if h := j.History(0); len(h) != 2 || h[0].ID != 3 || h[1].ID != 2 {
		t.Errorf("closed are %+v", h)
	}
}

// TestLazyChangesAreFlushedEachTime, those too that come after one which rode
// in somebody's commit.
func TestLazyChangesAreFlushedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memoryPlace()
		j := p.open(t, func(o *Options) { o.FlushAfter = time.Second })
		a, b := begin(t, j, 1, "9000"), begin(t, j, 2, "9000")
		finish(t, j, a.ID, Done)
		c := begin(t, j, 3, "9000") // carries it
		finish(t, j, b.ID, Done)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		j.Abandon()
		wantOpen(t, p.open(t), c.ID)
	})
}

func TestNoSpaceIsKnown(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{syscall.ENOSPC, true},
		{fmt.Errorf("write: %w", syscall.EDQUOT), true},
		{bolt.ErrMaxSizeReached, true},
		{errors.New("file resize error: " + syscall.ENOSPC.Error()), true}, // as bbolt says it
		{errors.New("file resize error: " + syscall.EDQUOT.Error()), true},
		{syscall.EIO, false},
		{errors.New(syscall.ENOSPC.Error() + ", perhaps"), false},
	} {
		if got := isNoSpace(tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}

// TestAScanThatDoesNotEndIsDamage, but one that nobody waits for any more says
// nothing about the file.
func TestAScanThatDoesNotEndIsDamage(t *testing.T) {
	waits := func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	synctest.Test(t, func(t *testing.T) {
		err := runScan(t.Context(), Options{Scan: waits, ScanTimeout: time.Second}, "a")
		wantErr(t, err, ErrCorrupt, "not finished after 1s")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = runScan(ctx, Options{Scan: waits, ScanTimeout: time.Minute}, "a")
		wantErr(t, err, context.DeadlineExceeded)
		if errors.Is(err, ErrCorrupt) {
			t.Errorf("an end that somebody else set: %v", err)
		}
	})
}

func TestDamagedIsNotNewer(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{ErrCorrupt, true},
		{ErrNewer, false},
		{errors.Join(ErrCorrupt, ErrNewer), false},
		{ErrLocked, false},
	} {
		if got := damaged(tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}

// TestSalvageSaysWhatOfANewerAgentIsLost: what was in buckets that this one does
// not know.
func TestSalvageSaysWhatOfANewerAgentIsLost(t *testing.T) {
	p := memoryPlace()
	fill(t, p)
	rows := p.mem.rows()
	at := slices.IndexFunc(rows, func(w write) bool { return w.key == keyManifest })
	r, err := codec{}.decode(BucketMeta, keyManifest, rows[at].value)
	ok(t, err)
	m := r.(*Manifest)
	m.Buckets["later"] = Tally{3, strings.Repeat("0", digestLength)}
	m.Buckets["unused"] = Tally{0, strings.Repeat("0", digestLength)}
	rows[at].value, err = codec{}.encode(BucketMeta, keyManifest, m)
	ok(t, err)
	if s := salvage(codec{}, rows, nil); !slices.Equal(s.lost, []string{"later: 3 records, of a newer agent"}) || s.newer != nil {
		t.Errorf("lost are %q, %v", s.lost, s.newer)
	}
}

// TestDamageUponDamage: until somebody acknowledges it, what was lost first is
// not forgotten over what was lost then.
func TestDamageUponDamage(t *testing.T) {
	ctx := context.Background()
	p := memoryPlace()
	fill(t, p)
	now := clock()
	damage := func(bucket, key string) Degradation {
		p.mem.Put(bucket, key, []byte("EA?"))
		j := p.open(t, func(o *Options) { o.Now = now })
		defer j.Abandon()
		d, degraded := j.Degraded()
		if !degraded {
			t.Fatal("not degraded")
		}
		return d
	}
	first := damage(BucketDesired, "file")
	second := damage(BucketControl, "paused@"+string(pci(3)))
	if !second.Since.Equal(first.Since) || !slices.Equal(second.Lost[:len(first.Lost)], first.Lost) || len(second.Lost) <= len(first.Lost) {
		t.Errorf("first %+v, then %+v", first, second)
	}
	j := p.open(t)
	ok(t, j.Acknowledge(ctx, "root", "seen"))
	j.Abandon()
	if third := damage(BucketDone, idKey(1)); third.Since.Equal(first.Since) || len(third.Lost) == 0 || slices.Contains(third.Lost, first.Lost[0]) {
		t.Errorf("after it was acknowledged %+v", third)
	}
}

// TestMemoryIsApartFromItsClone, and weighs what is in it.
func TestMemoryIsApartFromItsClone(t *testing.T) {
	m := NewMemory()
	m.Put("a", "k", []byte("12"))
	c := m.Clone()
	for _, one := range []*Memory{m, c} {
		one.Put("a", "only", []byte(fmt.Sprintf("%p", one)))
		one.Put("a", "k", nil)
		one.Put("a", "k", []byte("3"))
	}
	if a, b := m.buckets["a"]["only"], c.buckets["a"]["only"]; string(a) == string(b) {
		t.Errorf("both hold %s", a)
	}
	d := m.Clone()
	m.Put("a", "k", nil)
	if got, _ := d.get("a", "k"); string(got) != "3" {
		t.Errorf("the clone lost it: %q", got)
	}
	m.Become(d)
	m.Put("a", "k", nil)
	if got, _ := d.get("a", "k"); string(got) != "3" {
		t.Errorf("what it became lost it: %q", got)
	}
	j := memoryPlace().open(t)
	before := j.Size()
	begin(t, j, 1, "9000")
	if before == 0 || j.Size() <= before {
		t.Errorf("%d bytes, then %d", before, j.Size())
	}
}

// TestTheLockIsFreeBeforeItsFileIsClosed: a child that is being forked may hold
// the file.
func TestTheLockIsFreeBeforeItsFileIsClosed(t *testing.T) {
	dir := t.TempDir()
	l, err := takeLock(t.Context(), dir, 0)
	ok(t, err)
	child, err := unix.Dup(int(l.file.Fd()))
	ok(t, err)
	defer func() { ok(t, unix.Close(child)) }()
	_, err = takeLock(t.Context(), dir, 0)
	wantErr(t, err, ErrLocked, "stop it first")
	l.release()
	again, err := takeLock(t.Context(), dir, 0)
	ok(t, err)
	again.release()
}

func TestALockThatIsALink(t *testing.T) {
	dir := t.TempDir()
	ok(t, unix.Symlink("/dev/null", dir+"/"+lockName))
	_, err := takeLock(t.Context(), dir, 0)
	wantErr(t, err, ErrUnsafe, "is a symbolic link", "remove it")
}

func TestBeginStampsAndNumbers(t *testing.T) {
	j := memoryPlace().open(t)
	a, b := begin(t, j, 1, "9000"), begin(t, j, 2, "9000")
	if a.Created.IsZero() || !a.Created.Equal(a.Updated) || !b.Created.After(a.Created) || b.ID != a.ID+1 {
		t.Errorf("%+v, then %+v", a, b)
	}
	a, err := j.Attempt(context.Background(), a.ID)
	if ok(t, err); !a.Updated.After(b.Created) || !a.Created.Before(b.Created) {
		t.Errorf("tried again: %+v", a)
	}
}

func TestWhatANewerRecordCovers(t *testing.T) {
	for _, tc := range []struct {
		targets []drivers.Target
		want    bool
	}{
		{nil, true}, // it may be any
		{[]drivers.Target{pci(1), pci(2)}, true},
		{[]drivers.Target{pci(2)}, false},
	} {
		if got := (&Unreadable{Targets: tc.targets}).Covers(pci(1)); got != tc.want {
			t.Errorf("%v: %t", tc.targets, got)
		}
	}
}

// TestTargetsOfANewerOperation: each once, in order, as far as they are any.
func TestTargetsOfANewerOperation(t *testing.T) {
	j := memoryPlace().open(t)
	o := operation(2, "9000")
	for _, n := range []int{1, 2} {
		o.Changes = append(o.Changes, Change{Key: drivers.Key{Kind: "admin", Target: pci(n)}, Class: drivers.Volatile})
	}
	o.Changes = append(o.Changes, Change{Key: drivers.Key{Kind: "zeal", Target: pci(0)}, Class: drivers.Volatile})
	o, err := j.Begin(context.Background(), o, nil)
	ok(t, err)
	at := slot{BucketOpen, idKey(o.ID)}
	raw := reseal(at.bucket, at.key, j.raw(at), func(h []byte) { h[2] = 2 })
	u := j.unread(at.bucket, at.key, raw, ErrNewer)
	if !slices.Equal(u.Targets, []drivers.Target{pci(0), pci(1), pci(2)}) {
		t.Errorf("it is about %v", u.Targets)
	}
}

func TestDefaultOptions(t *testing.T) {
	o := Options{}.withDefaults()
	if d := time.Since(o.Now()); d < 0 || d > time.Minute {
		t.Errorf("its clock is %s off", d)
	}
	if o.FlushAfter != time.Second || o.LockTimeout != 10*time.Second || o.ScanTimeout != 10*time.Second || o.Preallocate != 4<<20 {
		t.Errorf("%+v", o)
	}
	if want := (Limits{256, 256, 1000, 8192, 1024, 16, 1024, 4 << 20, 64 << 20}); o.Limits != want {
		t.Errorf("%+v", o.Limits)
	}
	if o := (Options{Preallocate: -1, FlushAfter: 1, Limits: Limits{Open: 3}}).withDefaults(); o.Preallocate != -1 || o.FlushAfter != 1 || o.Limits.Open != 3 {
		t.Errorf("what is said is not kept: %+v", o)
	}
}

func TestWhatIsGivenIsNotSorted(t *testing.T) {
	j := memoryPlace().open(t)
	d := Desired{
		Source: "file", Goals: []Goal{{Key: mtu(2)}, {Key: mtu(1)}},
		Selections: []Selection{{Selector: "b", Target: pci(1)}, {Selector: "a", Target: pci(1)}},
	}
	ok(t, j.SetDesired(context.Background(), d))
	if d.Goals[0].Key != mtu(2) || d.Selections[0].Selector != "b" {
		t.Errorf("the caller's are %+v, %+v", d.Goals, d.Selections)
	}
	if kept, _ := j.Desired("file"); kept.Goals[0].Key != mtu(1) || kept.Selections[0].Selector != "a" {
		t.Errorf("the journal's are %+v, %+v", kept.Goals, kept.Selections)
	}
}
