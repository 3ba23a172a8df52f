package nodeeni

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"eniagent/agent/source"
	"eniagent/supervise"
)

const (
	// hold is how long a new desired state waits for the metadata before it is
	// sent without what they do not say.
	hold = time.Second
	// How soon the metadata are asked again for an ENI that they do not know:
	// they learn of one some moments after the API does.
	askAgain    = time.Second
	askAgainMax = time.Minute
)

// follower makes updates of what the stores have.
type follower struct {
	kept         *stores
	macs         lookup
	kernelDriver string
	show         func(picture) // is told what is made of the objects
	picture      *picture      // that it was not told yet

	desired *source.Desired // nil while nobody knows
	err     error           // why the API cannot be asked now

	taken    string // generation of the desired state that was taken last
	takenErr string // and the error, if an error was taken since

	known   map[string][]string // MAC addresses by ENI
	unknown []string            // ENIs without one
	lookErr error               // of the last lookup
	asking  bool                // a lookup is under way
	holding bool                // the desired state waits for it
	pauses  *backoff.ExponentialBackOff
}

// answer is the end of a lookup.
type answer struct {
	macs map[string][]string
	err  error
}

// follow offers what is new until ctx ends. Something newer replaces an offer that
// nobody has taken.
func (f *follower) follow(ctx context.Context, updates chan<- source.Update) {
	f.pauses = &backoff.ExponentialBackOff{
		InitialInterval: askAgain, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: askAgainMax,
	}
	again, patience := time.NewTimer(0), time.NewTimer(0)
	again.Stop()
	patience.Stop()
	defer again.Stop()
	defer patience.Stop()
	answers := make(chan answer, 1)
	ask := func() {
		if f.asking || len(f.unknown) == 0 {
			return
		}
		again.Stop()
		f.asking, f.holding = true, true
		patience.Reset(hold)
		supervise.Of(ctx).Go("metadata", func() {
			macs, err := f.macs(ctx)
			answers <- answer{macs, err}
		})
	}
	for {
		if f.picture != nil && !f.holding {
			f.show(*f.picture)
			f.picture = nil
		}
		next, news := f.next()
		offer := updates
		if !news {
			offer = nil
		}
		select {
		case <-ctx.Done():
			if f.asking {
				<-answers
			}
			return
		case offer <- next:
			f.took(next)
		case <-f.kept.changed:
			if f.see() {
				f.pauses.Reset()
				ask()
			}
		case a := <-answers:
			f.learn(a)
			f.see()
			if len(f.unknown) > 0 {
				again.Reset(f.pauses.NextBackOff())
			}
		case <-again.C:
			ask()
		case <-patience.C:
			f.holding = false
		}
	}
}

// next is what the reader does not know yet, if anything: first what is asked,
// then that the API is away.
func (f *follower) next() (u source.Update, news bool) {
	known := f.desired != nil && !f.holding
	switch {
	case known && f.desired.Generation != f.taken:
		return source.Update{Desired: f.desired}, true
	case f.err != nil:
		return source.Update{Err: f.err}, f.err.Error() != f.takenErr
	default: // the API is back, and everything is as it was
		return source.Update{Desired: f.desired}, known && f.takenErr != ""
	}
}

func (f *follower) took(u source.Update) {
	f.takenErr = ""
	if u.Err != nil {
		f.takenErr = u.Err.Error()
		return
	}
	f.taken = u.Desired.Generation
}

// see makes a desired state of what the stores have now, and says whether the
// ENIs are others than before. A kind of which it is not known what there is, is
// refused as a whole, so that what it asked before stays in force.
func (f *follower) see() (others bool) {
	enis, policies, nodes := f.kept.enis.snapshot(), f.kept.policies.snapshot(), f.kept.nodes.snapshot()
	if !f.ready(enis, policies, nodes) {
		return false
	}
	were, asked := f.unknown, map[string]bool{}
	f.unknown = nil
	t := translation{kernelDriver: f.kernelDriver, mac: func(eni string) (string, error) {
		asked[eni] = true
		return f.mac(eni)
	}}
	if !enis.listed {
		t.refuse(family, &source.Problem{Reason: oneLine(enis.err)})
	}
	for _, o := range enis.all {
		t.object(o)
	}
	t.policies(policies, nodes, f.kept.nodes.of())
	f.desired = &source.Desired{Source: Name, Object: Object, Interfaces: t.settle(), Complete: true}
	f.desired.Refused = t.refused
	// Of an ENI that comes back, nothing old is to be believed.
	maps.DeleteFunc(f.known, func(eni string, _ []string) bool { return !asked[eni] })
	f.desired.Generation = digest(f.desired)
	f.picture = &picture{enis.all, t.judged, t.asks, t.refused, f.desired.Generation}
	return !slices.Equal(were, f.unknown)
}

// ready says that there is something to be made of what the stores have: one kind
// at least was listed, and of the others is known why they were not. It notes why
// the API cannot be asked for what was listed; while nothing was, for anything.
func (f *follower) ready(enis content[*object], policies content[*policy], nodes content[*node]) bool {
	labels := asksAnything(policies.all)
	if !enis.listed && !policies.listed {
		f.err = cmp.Or(enis.err, policies.err)
		return false
	}
	f.err = nil
	if enis.listed {
		f.err = enis.err
	}
	if policies.listed {
		f.err = cmp.Or(f.err, policies.err)
	}
	if nodes.listed && labels {
		f.err = cmp.Or(f.err, nodes.err)
	}
	return enis.told() && policies.told() && (!labels || nodes.told())
}

// mac is the MAC address of an ENI.
func (f *follower) mac(eni string) (string, error) {
	macs := f.known[eni]
	if len(macs) == 1 {
		return macs[0], nil
	}
	if !slices.Contains(f.unknown, eni) {
		f.unknown = append(f.unknown, eni)
	}
	const orAddress = ": until then spec.dpdkPCIAddress can say which interface it is"
	switch {
	case len(macs) > 1:
		return "", fmt.Errorf("the instance metadata have it at %s: want one%s", strings.Join(macs, " and "), orAddress)
	case f.lookErr != nil:
		return "", fmt.Errorf("its MAC address is not known: %w%s", f.lookErr, orAddress)
	}
	return "", errors.New("the instance metadata do not know it yet" + orAddress)
}

// learn takes what the metadata answered.
func (f *follower) learn(a answer) {
	f.asking, f.holding, f.lookErr = false, false, a.err
	if f.known == nil {
		f.known = map[string][]string{}
	}
	for _, eni := range f.unknown {
		if macs := a.macs[eni]; len(macs) > 0 {
			f.known[eni] = macs
		}
	}
}

// digest names what a desired state asks.
func digest(d *source.Desired) string {
	b, err := json.Marshal(d)
	if err != nil {
		return err.Error() // strings and numbers always encode
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
