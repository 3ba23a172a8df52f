package nodeeni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

const (
	// transient is how long a status that is about to change waits for what it
	// becomes, so that one change is one write.
	transient = 2 * time.Second
	// What another writer dropped is restored between these: all nodes see it at
	// once, and the object is one. The more it has attachments, the longer it takes.
	restoreSoonest, restoreLatest = 2 * time.Second, 10 * time.Second
	restoreEach                   = 100 * time.Millisecond
	// What is dropped again before it stood so long is restored later each time,
	// doubled so often at most: the other writer may do it whenever it sees a change,
	// and would never come to rest.
	restoreStood   = time.Minute
	restoreDoubled = 6
	// A write that failed is tried again between these.
	rewriteFirst, rewriteMax = time.Second, time.Minute
	// seenWithin is how long it may take until what was written is seen. An API that
	// was set back to an older state never shows it.
	seenWithin = time.Minute
	// What is news on many nodes at once is written by each a little later, for each
	// node beyond these.
	promptParts   = 20
	newsEach      = 10 * time.Millisecond
	writePatience = 20 * time.Second
)

// patcher patches the status of a NodeENI, and gives it as it is then.
type patcher func(ctx context.Context, name string, patch []byte) (*object, error)

// applier applies a part of the status of a policy, and gives it as it is then.
type applier func(ctx context.Context, name string, status []byte) (*policy, error)

// writer keeps the status of the objects true: what it shall say is held against
// what the API has, and written where these differ.
type writer struct {
	patch  patcher
	apply  applier
	logger log.Logger
	node   string
	wake   chan struct{}

	mu     sync.Mutex
	latest account

	// The loop's own.
	papers map[string]*paper // by object, as refusals name it
	pruned bool              // the definition in the API lacks fields, and drops them
	lulls  map[string]*lull  // by resource, and everything
}

// lull is how long the API is not asked for something.
type lull struct {
	until  time.Time
	pauses *backoff.ExponentialBackOff
}

// everything is all resources.
const everything = ""

// paper is what is known of writing one object's status.
type paper struct {
	uid     types.UID                  // of the object: another may have its name next
	said    []v1alpha1.ENIAttachment   // what the attachments were last made to say
	part    *policyv1alpha1.NodeStatus // the same, of a policy
	wrote   time.Time                  // when that was
	version uint64                     // of the object then
	noticed time.Time                  // since when something else is to be written; zero when nothing is
	drops   int                        // how often in a row what was written was dropped soon
	turn    time.Duration              // how long that waits, so that not all nodes write at once
	spread  time.Duration              // and how long, if it restores what was dropped
	retry   time.Time                  // not before, after one that failed
	pauses  *backoff.ExponentialBackOff
}

func newWriter(patch patcher, apply applier, node string, logger log.Logger) *writer {
	return &writer{
		patch: patch, apply: apply, node: node, logger: log.With(logger, "component", "source", "source", Name), wake: make(chan struct{}, 1),
		papers: map[string]*paper{}, lulls: map[string]*lull{}, latest: account{began: time.Now()},
	}
}

func (w *writer) lull(of string) *lull {
	if w.lulls[of] == nil {
		w.lulls[of] = &lull{pauses: pauses()}
	}
	return w.lulls[of]
}

func pauses() *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{InitialInterval: rewriteFirst, RandomizationFactor: 0.3, Multiplier: 2, MaxInterval: rewriteMax}
	b.Reset()
	return b
}

// show takes what the API asks now.
func (w *writer) show(p picture) {
	w.mu.Lock()
	w.latest.picture = p
	w.latest.note(p)
	w.mu.Unlock()
	w.tell()
}

// Report takes how it stands on the host.
func (w *writer) Report(r source.Report) {
	w.mu.Lock()
	w.latest.report = r
	w.mu.Unlock()
	w.tell()
}

func (w *writer) tell() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// write writes until ctx ends.
func (w *writer) write(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-next.C:
		}
		if at := w.round(ctx); !at.IsZero() {
			next.Reset(time.Until(at))
		}
	}
}

// draft is a status that is to be written.
type draft struct {
	kind     kind
	name     string // of the object, as refusals have it
	total    int    // nodes that have a part in it, or attachments
	settled  bool
	restores bool // it was written before, and dropped
	// put writes it, and says which version of the object that made.
	put func(ctx context.Context) (version uint64, err error)
}

// round writes what is due, and says when something else will be.
func (w *writer) round(ctx context.Context) (next time.Time) {
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	drafts, unseen := w.drafts()
	if !unseen.IsZero() {
		sooner(unseen)
	}
	for _, d := range drafts {
		p := w.papers[d.name]
		if at := w.due(p, d); at.After(time.Now()) {
			sooner(at)
		} else if ctx.Err() == nil && !w.send(ctx, p, d) {
			sooner(w.due(p, d))
		}
	}
	return next
}

// due is when a patch is made: at once, unless it is about to be another, does no
// more than restore what somebody dropped, or is one of many nodes'.
func (w *writer) due(p *paper, d draft) time.Time {
	if p.noticed.IsZero() {
		p.noticed = time.Now()
		p.turn = rand.N(max(1, time.Duration(d.total-promptParts)*newsEach)) //nolint:gosec // spreads load, hides nothing
		if d.restores {
			p.dropped(d.total)
		}
	}
	at := p.noticed
	switch {
	case !d.settled:
		at = at.Add(transient)
	case d.restores:
		at = at.Add(p.spread)
	default:
		at = at.Add(p.turn)
	}
	return later(later(at, p.retry), later(w.lull(everything).until, w.lull(d.kind.resource).until))
}

// dropped notes that what was written is gone from an object with so many
// parts, and says how long that stays so.
func (p *paper) dropped(parts int) {
	if time.Since(p.wrote) >= restoreStood {
		p.drops = 0
	}
	latest := max(restoreLatest, time.Duration(parts)*restoreEach)
	p.spread = restoreSoonest + rand.N(latest-restoreSoonest) //nolint:gosec // spreads load, hides nothing
	p.spread <<= p.drops
	p.drops = min(p.drops+1, restoreDoubled)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// drafts are what is to be written by what is known now, last what was not taken
// last: it keeps nothing else from being tried. Unseen is when to look again at what was
// written and not seen yet.
func (w *writer) drafts() (all []draft, unseen time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	consider := func(name string, o metav1.ObjectMeta, of func(*paper) (draft, bool)) {
		there[name] = true
		p := w.papers[name]
		if p == nil || p.uid != o.UID {
			p = &paper{uid: o.UID, pauses: pauses()}
			w.papers[name] = p
		}
		if numbered(o.ResourceVersion) < p.version && time.Since(p.wrote) < seenWithin {
			unseen = later(unseen, p.wrote.Add(seenWithin))
			return // what was written last has not been seen yet
		}
		d, differs := of(p)
		if !differs {
			p.noticed = time.Time{}
			return
		}
		d.name = name
		all = append(all, d)
	}
	for _, o := range w.latest.objects {
		if o.err == nil {
			consider(objectName(o.Name, ""), o.ObjectMeta, func(p *paper) (draft, bool) { return w.draftOf(o, p) })
		}
	}
	for _, o := range w.latest.policies {
		consider(policyName(o.Name, nil), o.ObjectMeta, func(p *paper) (draft, bool) { return w.draftOfPolicy(o, p) })
	}
	for name := range w.papers {
		if !there[name] {
			delete(w.papers, name)
		}
	}
	slices.SortStableFunc(all, func(a, b draft) int { return w.papers[a.name].retry.Compare(w.papers[b.name].retry) })
	return all, unseen
}

// draftOf is what is to be written to a NodeENI; false when it says what it shall.
func (w *writer) draftOf(o *object, p *paper) (draft, bool) {
	want, settled := w.latest.statuses(o, p.said)
	patch := patchOf(o.attachments, want, !w.pruned)
	put := func(ctx context.Context) (uint64, error) {
		changed, err := w.patch(ctx, o.Name, patch)
		if err != nil {
			return 0, err
		}
		p.said = want
		w.proofread(changed, patch)
		return numbered(changed.ResourceVersion), nil
	}
	return draft{kind: nodeENIs(), total: o.total, settled: settled, restores: agree(p.said, want, !w.pruned), put: put}, patch != nil
}

// send writes a status, and says whether it was taken.
func (w *writer) send(ctx context.Context, p *paper, d draft) bool {
	asking, cancel := context.WithTimeoutCause(ctx, writePatience, fmt.Errorf("no answer within %s", writePatience))
	defer cancel()
	version, err := d.put(asking)
	if err == nil {
		p.wrote, p.version, p.noticed, p.retry = time.Now(), version, time.Time{}, time.Time{}
		p.pauses.Reset()
		w.lull(everything).pauses.Reset()
		w.lull(d.kind.resource).pauses.Reset()
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	pause := p.pauses.NextBackOff()
	if of, many := about(d.kind, err); many {
		l := w.lull(of)
		pause = l.pauses.NextBackOff()
		l.until = time.Now().Add(pause)
	}
	p.retry = time.Now().Add(pause)
	level.Warn(w.logger).Log("object", d.name, "err", writable(d.kind, err), "again_in", pause.Round(time.Millisecond), "msg", "status not written")
	return false
}

// about says that an error is not only about the one object that it came with, and
// of which resource it is. What a role allows, it allows of a resource.
func about(k kind, err error) (resource string, many bool) {
	if apierrors.IsForbidden(err) {
		return k.resource, true
	}
	return everything, away(err) && !apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err)
}

// proofread notes whether the API has kept all that it was told.
func (w *writer) proofread(o *object, patch []byte) {
	if w.pruned {
		return
	}
	o.keep(w.node)
	kept := slices.ContainsFunc(o.attachments, func(a attachment) bool { return len(a.Conditions) > 0 })
	told := bytes.Contains(patch, []byte(`"`+v1alpha1.ConditionReady+`"`))
	if told && !kept && len(o.attachments) > 0 {
		w.pruned = true
		level.Warn(w.logger).Log("msg", "the definition of "+nodeENIs().String()+" in this cluster is an older one and drops the conditions: only the dpdk fields are written; apply deploy/kubernetes/crds and restart the agent to have all")
	}
}

// writable adds to an API's answer what is to be done about it.
func writable(k kind, err error) error {
	var status apierrors.APIStatus
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: let this agent's service account patch %s/status", err, k)
	case errors.As(err, &status) && status.Status().Code == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: another writer changed the attachments meanwhile", err)
	}
	return err
}

// numbered is a version, as a number that grows; 0 when it is none.
func numbered(version string) uint64 {
	v, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// patchStatus patches the status of a NodeENI.
func (a *api) patchStatus(ctx context.Context, name string, patch []byte) (*object, error) {
	o := &object{}
	err := a.client.Patch(types.JSONPatchType).Resource(v1alpha1.Resource).Name(name).SubResource("status").
		Body(patch).MaxRetries(0).Do(ctx).Into(o)
	return o, err
}
