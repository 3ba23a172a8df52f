package nodeeni

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"eniagent/agent/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a follower of a store that the test fills, and of metadata that it
// answers for.
type bench struct {
	t       *testing.T
	kept    *stores
	store   *store[*object]
	updates chan source.Update

	mu    sync.Mutex
	asked int
	macs  lookup
	shown []int // how many objects each picture refuses
}

// answers says what the metadata answer from now on.
func (b *bench) answers(macs map[string][]string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.macs = func(context.Context) (map[string][]string, error) { return macs, err }
}

// show takes what is made of the objects.
func (b *bench) show(p picture) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown = append(b.shown, len(p.refused))
}

// pictures are those since the last question.
func (b *bench) pictures() []int {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.shown = nil }()
	return b.shown
}

// questions is how often the metadata were asked.
func (b *bench) questions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// onBench runs a test with a follower, in virtual time. There are no policies, and
// the node is known.
func onBench(t *testing.T, fn func(b *bench)) {
	t.Helper()
	onEmptyBench(t, true, fn)
}

// onEmptyBench is onBench, where nothing is known before the test says it.
func onEmptyBench(t *testing.T, first bool, fn func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, kept: newStores(here), updates: make(chan source.Update)}
		b.store = b.kept.enis
		if first {
			b.policies()
			b.labels(map[string]string{"nic": "fast"})
		}
		b.answers(map[string][]string{eni1: {mac1}, eni2: {mac2}}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		f := follower{kept: b.kept, show: b.show, kernelDriver: defaultKernelDriver, macs: func(ctx context.Context) (map[string][]string, error) {
			b.mu.Lock()
			b.asked++
			macs := b.macs
			b.mu.Unlock()
			return macs(ctx)
		}}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.follow(ctx, b.updates)
		}()
		fn(b)
		cancel()
		<-ended
	})
}

// has puts all there is into the store.
func (b *bench) has(texts ...string) {
	b.t.Helper()
	var all []any
	for _, text := range texts {
		all = append(all, read(b.t, text))
	}
	if err := b.store.Replace(all, "1"); err != nil {
		b.t.Fatal(err)
	}
}

// policies puts all policies there are into their store.
func (b *bench) policies(texts ...string) {
	b.t.Helper()
	var all []any
	for _, text := range texts {
		all = append(all, readPolicy(b.t, text))
	}
	if err := b.kept.policies.Replace(all, "1"); err != nil {
		b.t.Fatal(err)
	}
}

// labels has the node have these; none at all where they are nil.
func (b *bench) labels(of map[string]string) {
	b.t.Helper()
	var all []any
	if of != nil {
		all = append(all, &node{ObjectMeta: metav1.ObjectMeta{Name: here, Labels: of}})
	}
	if err := b.kept.nodes.Replace(all, "1"); err != nil {
		b.t.Fatal(err)
	}
}

// update is the next; the test fails where there is none.
func (b *bench) update() source.Update {
	b.t.Helper()
	select {
	case u := <-b.updates:
		return u
	case <-time.After(5 * time.Second):
		b.t.Fatal("no update")
		return source.Update{}
	}
}

// desired is the next update, which is no error: what it asks and refuses.
func (b *bench) desired() (entries, refused string) {
	b.t.Helper()
	u := b.update()
	if u.Err != nil || !u.Desired.Complete || u.Desired.Source != Name {
		b.t.Fatalf("got %+v, %v", u.Desired, u.Err)
	}
	var names, no []string
	for _, i := range u.Desired.Interfaces {
		names = append(names, i.Selector.String())
	}
	for _, r := range u.Desired.Refused {
		no = append(no, r.Object+": "+r.Reason)
	}
	return strings.Join(names, ", "), strings.Join(no, "\n")
}

// wants is what the next update asks and refuses.
func (b *bench) wants(entries, refused string) {
	b.t.Helper()
	if e, r := b.desired(); e != entries || r != refused {
		b.t.Errorf("got %s, refused\n%s\nwant %s,\n%s", e, r, entries, refused)
	}
}

// silent says that nothing comes for a while.
func (b *bench) silent(d time.Duration) {
	b.t.Helper()
	select {
	case u := <-b.updates:
		b.t.Fatalf("unexpected update %+v", u)
	case <-time.After(d):
	}
}

func TestNothingIsSaidBeforeAList(t *testing.T) {
	onEmptyBench(t, false, func(b *bench) {
		b.silent(time.Hour)
		b.store.failed(errors.New("away"))
		if u := b.update(); u.Err == nil || u.Desired != nil {
			t.Errorf("got %+v", u)
		}
		b.store.failed(errors.New("away"))
		b.silent(time.Hour)
		b.has()
		b.store.restored()
		b.silent(time.Hour) // the policies are not known
		b.policies()
		if entries, _ := b.desired(); entries != "" {
			t.Errorf("of no objects: %s", entries)
		}
	})
}

func TestAnAPIThatIsAwayTakesNothing(t *testing.T) {
	onBench(t, func(b *bench) {
		b.has(nodeENI("one", ``))
		if entries, refused := b.desired(); entries != "mac "+mac1 || refused != "" {
			t.Errorf("got %s, refused %s", entries, refused)
		}
		b.store.failed(errors.New("away"))
		if u := b.update(); u.Err == nil {
			t.Error("nothing says that the API is away")
		}
		b.silent(time.Hour)
		b.store.restored()
		if entries, _ := b.desired(); entries != "mac "+mac1 {
			t.Errorf("the API is back, and asks for %s", entries)
		}
		b.silent(time.Hour)
		if b.questions() != 1 {
			t.Errorf("the metadata were asked %d times for one ENI", b.questions())
		}
	})
}

// TestWhatIsAskedIsSaidBeforeThatTheAPIIsAway: a reader that was slow misses
// neither.
func TestWhatIsAskedIsSaidBeforeThatTheAPIIsAway(t *testing.T) {
	onBench(t, func(b *bench) {
		b.has(nodeENI("one", ``))
		synctest.Wait()
		b.store.failed(errors.New("away"))
		synctest.Wait()
		if entries, _ := b.desired(); entries != "mac "+mac1 {
			t.Errorf("got %s", entries)
		}
		if u := b.update(); u.Err == nil {
			t.Error("nothing says that the API is away")
		}
	})
}

func TestAnENIThatTheMetadataLearnOfLater(t *testing.T) {
	onBench(t, func(b *bench) {
		b.answers(nil, errors.New("503"))
		b.has(nodeENI("one", ``), nodeENI("addressed", `,"dpdkPCIAddress":"0000:00:07.0"`))
		entries, refused := b.desired()
		if entries != "pci 0000:00:07.0" || !strings.Contains(refused, "one/"+eni1+": status.attachments[1].eniID") || !strings.Contains(refused, "503") {
			t.Errorf("got %s, refused %s", entries, refused)
		}
		b.silent(10 * time.Minute)
		if n := b.questions(); n < 8 || n > 40 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		b.answers(map[string][]string{eni1: {mac1, mac2}}, nil)
		time.Sleep(2 * askAgainMax) // virtual
		if _, refused := b.desired(); !strings.Contains(refused, mac1+" and "+mac2) {
			t.Errorf("ambiguous: refused %s", refused)
		}
		b.answers(map[string][]string{eni1: {mac1}}, nil)
		time.Sleep(2 * askAgainMax) // virtual
		if entries, refused := b.desired(); entries != "pci 0000:00:07.0, mac "+mac1 || refused != "" {
			t.Errorf("got %s, refused %s", entries, refused)
		}
		known := b.questions()
		b.silent(24 * time.Hour)
		if b.questions() != known {
			t.Errorf("asked %d times more for what is known", b.questions()-known)
		}
	})
}

// TestSlowMetadataHoldUpNothingElse: one that hangs costs the others a moment.
func TestSlowMetadataHoldUpNothingElse(t *testing.T) {
	onBench(t, func(b *bench) {
		answer := make(chan struct{})
		b.macs = func(context.Context) (map[string][]string, error) {
			<-answer
			return map[string][]string{eni1: {mac1}}, nil
		}
		begun := time.Now()
		b.has(nodeENI("one", ``), nodeENI("addressed", `,"dpdkPCIAddress":"0000:00:07.0"`))
		if entries, refused := b.desired(); entries != "pci 0000:00:07.0" || !strings.Contains(refused, "do not know it yet") || time.Since(begun) > hold {
			t.Errorf("after %s: got %s, refused %s", time.Since(begun), entries, refused)
		}
		close(answer)
		if entries, refused := b.desired(); entries != "pci 0000:00:07.0, mac "+mac1 || refused != "" {
			t.Errorf("got %s, refused %s", entries, refused)
		}
	})
}

func TestTheMetadataAreAskedWhenTheENIsChange(t *testing.T) {
	onBench(t, func(b *bench) {
		b.has(nodeENI("one", ``))
		b.desired()
		if err := b.store.Update(read(t, strings.ReplaceAll(nodeENI("two", ``), eni1, eni2))); err != nil {
			t.Fatal(err)
		}
		if entries, _ := b.desired(); entries != "mac "+mac1+", mac "+mac2 || b.questions() != 2 {
			t.Errorf("got %s after %d questions", entries, b.questions())
		}
		if err := b.store.Delete(read(t, nodeENI("one", ``))); err != nil {
			t.Fatal(err)
		}
		if entries, _ := b.desired(); entries != "mac "+mac2 || b.questions() != 2 {
			t.Errorf("got %s after %d questions", entries, b.questions())
		}
		// The ENI comes back: with what address, is asked anew.
		b.answers(map[string][]string{eni1: {mac3}}, nil)
		if err := b.store.Add(read(t, nodeENI("one", ``))); err != nil {
			t.Fatal(err)
		}
		if entries, _ := b.desired(); entries != "mac "+mac3+", mac "+mac2 || b.questions() != 3 {
			t.Errorf("got %s after %d questions", entries, b.questions())
		}
	})
}

func TestTheStoreKeepsNothingOfOthers(t *testing.T) {
	s := newStore[*object](here, make(chan struct{}, 1))
	others := strings.ReplaceAll(nodeENI("x", ``), "node-1", "node-3")
	if err := s.Replace([]any{read(t, others), read(t, nodeENI("own", ``))}, "1"); err != nil {
		t.Fatal(err)
	}
	<-s.changed
	if err := s.Add(read(t, others)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.changed:
		t.Error("another node's object is news")
	default:
	}
	all := s.snapshot().all
	if len(all) != 1 || all[0].Name != "own" || len(all[0].attachments) != 1 {
		t.Errorf("kept %+v", all)
	}
	stripped, err := s.Transformer()(read(t, others))
	if o := stripped.(*object); err != nil || o.Name != "x" || o.spec.NodeSelector != nil || len(o.attachments) > 0 {
		t.Errorf("not stripped: %+v", o)
	}
	// It becomes another node's: this one is asked for it no more.
	if err := s.Update(read(t, strings.ReplaceAll(nodeENI("own", ``), "node-1", "node-3"))); err != nil {
		t.Fatal(err)
	}
	if all := s.snapshot().all; len(all) != 0 {
		t.Errorf("kept %+v", all)
	}
}

// TestNothingIsSaidOfAnENIBeforeTheMetadataAnswer: that it is not known would be
// written, and taken back a moment later.
func TestNothingIsSaidOfAnENIBeforeTheMetadataAnswer(t *testing.T) {
	onBench(t, func(b *bench) {
		slow := func(d time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.macs = func(context.Context) (map[string][]string, error) {
				time.Sleep(d)
				return map[string][]string{eni1: {mac1}}, nil
			}
		}
		slow(hold / 2)
		b.has(nodeENI("one", ``))
		if early := b.pictures(); len(early) > 0 {
			b.t.Errorf("told of objects that refuse %v", early)
		}
		b.update()
		if shown := b.pictures(); !slices.Equal(shown, []int{0}) {
			b.t.Errorf("told of objects that refuse %v", shown)
		}
		b.has()
		b.update()
		b.pictures()
		slow(2 * hold)
		b.has(nodeENI("one", ``))
		time.Sleep(hold + time.Millisecond)
		if shown := b.pictures(); !slices.Equal(shown, []int{1}) {
			b.t.Errorf("no answer after %s: told of objects that refuse %v", hold, shown)
		}
		time.Sleep(hold)
		if shown := b.pictures(); !slices.Equal(shown, []int{0}) {
			b.t.Errorf("after the answer, told of objects that refuse %v", shown)
		}
	})
}
