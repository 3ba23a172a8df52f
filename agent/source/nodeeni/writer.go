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
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
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
	writePatience            = 20 * time.Second
)

// patcher patches the status of an object, and gives it as it is then.
type patcher func(ctx context.Context, name string, patch []byte) (*object, error)

// writer keeps the status of the objects true: what it shall say is held against
// what the API has, and written where these differ.
type writer struct {
	patch  patcher
	logger log.Logger
	node   string
	wake   chan struct{}

	mu     sync.Mutex
	latest account

	// The loop's own.
	papers map[string]*paper // by object
	pruned bool              // the definition in the API lacks fields, and drops them
	rest   time.Time         // the API cannot be asked before
	pauses *backoff.ExponentialBackOff
}

// paper is what is known of writing one object's status.
type paper struct {
	said    []v1alpha1.ENIAttachment // what the attachments were last made to say
	wrote   time.Time                // when that was
	version uint64                   // of the object then
	noticed time.Time                // since when something else is to be written; zero when nothing is
	drops   int                      // how often in a row what was written was dropped soon
	spread  time.Duration            // how long that waits to be restored
	retry   time.Time                // not before, after one that failed
	pauses  *backoff.ExponentialBackOff
}

func newWriter(patch patcher, node string, logger log.Logger) *writer {
	return &writer{
		patch: patch, node: node, logger: log.With(logger, "component", "source", "source", Name), wake: make(chan struct{}, 1),
		papers: map[string]*paper{}, pauses: pauses(),
	}
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

// draft is a patch that is to be made.
type draft struct {
	object   *object
	want     []v1alpha1.ENIAttachment
	patch    []byte
	settled  bool
	restores bool // it was written before, and dropped
}

// round writes what is due, and says when something else will be.
func (w *writer) round(ctx context.Context) (next time.Time) {
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, d := range w.drafts() {
		p := w.papers[d.object.Name]
		if at := w.due(p, d); at.After(time.Now()) {
			sooner(at)
		} else if ctx.Err() == nil && !w.send(ctx, p, d) {
			sooner(w.due(p, d))
		}
	}
	return next
}

// due is when a patch is made: at once, unless it is about to be another, or does
// no more than restore what somebody dropped.
func (w *writer) due(p *paper, d draft) time.Time {
	if p.noticed.IsZero() {
		p.noticed = time.Now()
		if d.restores {
			p.dropped(d.object.total)
		}
	}
	at := p.noticed
	switch {
	case !d.settled:
		at = at.Add(transient)
	case d.restores:
		at = at.Add(p.spread)
	}
	return later(at, later(p.retry, w.rest))
}

// dropped notes that what was written is gone from an object with so many
// attachments, and says how long that stays so.
func (p *paper) dropped(attachments int) {
	if time.Since(p.wrote) >= restoreStood {
		p.drops = 0
	}
	latest := max(restoreLatest, time.Duration(attachments)*restoreEach)
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

// drafts are the patches that are to be made of what is known now.
func (w *writer) drafts() (all []draft) {
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, o := range w.latest.objects {
		there[o.Name] = true
		p := w.papers[o.Name]
		if p == nil {
			p = &paper{pauses: pauses()}
			w.papers[o.Name] = p
		}
		if o.err != nil || version(o) < p.version {
			continue // what was written last has not been seen yet
		}
		want, settled := w.latest.statuses(o, p.said)
		patch := patchOf(o.attachments, want, !w.pruned)
		if patch == nil {
			p.noticed = time.Time{}
			continue
		}
		all = append(all, draft{o, want, patch, settled, agree(p.said, want, !w.pruned)})
	}
	for name := range w.papers {
		if !there[name] {
			delete(w.papers, name)
		}
	}
	return all
}

// send makes a patch, and says whether it was taken.
func (w *writer) send(ctx context.Context, p *paper, d draft) bool {
	asking, cancel := context.WithTimeoutCause(ctx, writePatience, fmt.Errorf("no answer within %s", writePatience))
	defer cancel()
	o, err := w.patch(asking, d.object.Name, d.patch)
	if err == nil {
		p.said, p.wrote, p.version, p.noticed, p.retry = d.want, time.Now(), version(o), time.Time{}, time.Time{}
		p.pauses.Reset()
		w.pauses.Reset()
		w.proofread(o, d)
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	pause := p.pauses.NextBackOff()
	if aboutAll(err) {
		pause = w.pauses.NextBackOff()
		w.rest = time.Now().Add(pause)
	}
	p.retry = time.Now().Add(pause)
	level.Warn(w.logger).Log("object", objectName(d.object.Name, ""), "err", writable(err), "again_in", pause.Round(time.Millisecond), "msg", "status not written")
	return false
}

// aboutAll says that an error is not about the one object that it came with.
func aboutAll(err error) bool {
	return away(err) && !apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}

// proofread notes whether the API has kept all that it was told.
func (w *writer) proofread(o *object, d draft) {
	if w.pruned || o == nil {
		return
	}
	o.keep(w.node)
	kept := slices.ContainsFunc(o.attachments, func(a attachment) bool { return len(a.Conditions) > 0 })
	told := bytes.Contains(d.patch, []byte(`"`+v1alpha1.ConditionReady+`"`))
	if told && !kept && len(o.attachments) > 0 {
		w.pruned = true
		level.Warn(w.logger).Log("msg", "the definition of "+nodeENIs().String()+" in this cluster is an older one and drops the conditions: only the dpdk fields are written; apply deploy/kubernetes/crds and restart the agent to have all")
	}
}

// writable adds to an API's answer what is to be done about it.
func writable(err error) error {
	var status apierrors.APIStatus
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: let this agent's service account patch %s/status", err, nodeENIs())
	case errors.As(err, &status) && status.Status().Code == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: another writer changed the attachments meanwhile", err)
	}
	return err
}

// version is an object's, as a number that grows; 0 when it is none.
func version(o *object) uint64 {
	if o == nil {
		return 0
	}
	v, err := strconv.ParseUint(o.ResourceVersion, 10, 64)
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
