package journal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Journal is an open journal. All methods may be called by many goroutines.
//
// A method that takes a context is durable when it returns nil. One that does
// not is visible at once and rides in the next commit, or is flushed within
// Options.FlushAfter.
type Journal struct {
	*Records // the contents, with mu

	o        Options
	store    store
	warnings []string
	release  func() // gives the lock back; nil in memory

	committing sync.Mutex // held by whoever commits; taken before mu

	// Guarded by mu.
	pending   *batch // gathers changes
	writing   *batch // on its way to the disk
	timer     *time.Timer
	nextID    uint64
	broken    error
	shut      bool
	abandoned bool
}

func newJournal(o Options, s store, r *Records) *Journal {
	r.bootID = o.BootID
	return &Journal{Records: r, o: o, store: s, pending: newBatch(), nextID: r.manifest.NextID}
}

// Closing says how an operation ends.
type Closing struct {
	ID      uint64
	State   OperationState // Done, Reverted, Superseded; with Begin also Resolved
	Outcome string         // why, for people
	Count   Count          // what the end says about the goal
	Until   time.Time      // with Count: not to be tried before
	// Owes is what others must do because of what the operation changed (Debt);
	// "" is nothing. It is owed in the same commit.
	Owes string
}

// Begin claims the targets of an operation, numbers it and makes it durable:
// the intent. Its baselines that are not there yet, the closings, and every
// completion that was waiting go into the same commit. When it returns an
// error, nothing may be written to the host.
func (j *Journal) Begin(ctx context.Context, o Operation, baselines []Baseline, closings ...Closing) (Operation, error) {
	var made Operation
	err := j.commitChange(ctx, "begin", func(e *edit) error {
		for _, c := range closings {
			if err := j.end(e, c); err != nil {
				return err
			}
		}
		next, err := j.intent(o)
		if err != nil {
			return err
		}
		if err := j.claim(&next); err != nil {
			return err
		}
		if err := j.keepBaselines(e, baselines); err != nil {
			return fmt.Errorf("baselines of %s: %w", &next, err)
		}
		if err := put(e, j.open, idKey(next.ID), &next, j.o.Limits.Open); err != nil {
			return err
		}
		j.nextID++
		made = next.clone()
		return nil
	})
	if err != nil {
		return Operation{}, fmt.Errorf("begin: %w", err)
	}
	return made, nil
}

// intent is the record of a new operation.
func (j *Journal) intent(o Operation) (Operation, error) {
	o = o.clone()
	slices.SortStableFunc(o.Changes, func(a, b Change) int { return a.Key.Compare(b.Key) })
	if len(o.Identity) == 0 {
		o.Identity = nil
	}
	o.ID, o.State, o.Attempts = j.nextID, Intent, 1
	o.BootID, o.MachineID, o.TriedIn = j.o.BootID, j.o.MachineID, ""
	o.LastError, o.Outcome, o.UndoneAt, o.Agent = "", "", 0, j.o.Version
	o.Failed, o.Spared, o.Found = 0, 0, ""
	o.Findings = nil
	o.Reason.Object = clip(o.Reason.Object)
	o.Created = j.stamp()
	o.Updated = o.Created
	return o, o.validate()
}

// claim refuses targets that something unfinished covers.
func (j *Journal) claim(o *Operation) error {
	for _, t := range o.Targets() {
		if id, ok := j.claims[t]; ok {
			held, bucket, err := j.find(id)
			if err != nil {
				return err
			}
			return fmt.Errorf("%s by %s in %s: %w", t, held, bucket, ErrClaimed)
		}
		if u := j.blocking(t); u != nil {
			return fmt.Errorf("%s by %s: %w: %w", t, u.Key, ErrClaimed, u.Err)
		}
	}
	return nil
}

// find is an operation that is not closed, and the bucket it is in.
func (j *Journal) find(id uint64) (*Operation, string, error) {
	if o, ok := j.open.get(idKey(id)); ok {
		return o, BucketOpen, nil
	}
	if o, ok := j.quarantine.get(idKey(id)); ok {
		return o, BucketQuarantine, nil
	}
	if o, ok := j.done.get(j.closed[id]); ok {
		return nil, "", fmt.Errorf("%s is closed: %w", o, ErrTransition)
	}
	return nil, "", fmt.Errorf("operation %d: %w", id, ErrUnknown)
}

// Attempt counts a further try of an open operation, before it is made.
func (j *Journal) Attempt(ctx context.Context, id uint64) (Operation, error) {
	return j.AttemptFrom(ctx, id, "")
}

// AttemptFrom is Attempt by recovery, where found is a digest of what the host
// is like now. Crashes that left it different from when the last such try began
// are spared: the operation gets on in spite of them.
func (j *Journal) AttemptFrom(ctx context.Context, id uint64, found string) (Operation, error) {
	var made Operation
	err := j.commitChange(ctx, "attempt", func(e *edit) error {
		o, err := j.openOperation(id)
		if err != nil {
			return err
		}
		if o.GotOn(found) {
			o.Spared += o.Crashes()
		}
		if found != "" {
			o.Found = found
		}
		o.Attempts++
		o.TriedIn = ""
		if o.BootID != j.o.BootID {
			o.TriedIn = j.o.BootID
		}
		err = j.update(e, &o)
		made = o.clone()
		return err
	})
	if err != nil {
		return Operation{}, fmt.Errorf("attempt: %w", err)
	}
	return made, nil
}

// Note keeps the last error of an open operation. It is lazy.
func (j *Journal) Note(id uint64, lastError string) error {
	return j.laterChange("note", func(e *edit) error {
		o, err := j.openOperation(id)
		if err != nil {
			return err
		}
		if o.LastError == clip(lastError) {
			return nil
		}
		o.LastError = clip(lastError)
		return j.update(e, &o)
	})
}

// Ended keeps how the present try of an open operation ended, with its error:
// failed, or for a reason that says nothing about its goal. It is lazy: a crash
// before the next commit makes the try one that nobody knows the end of.
func (j *Journal) Ended(id uint64, failed bool, lastError string) error {
	return j.laterChange("ended", func(e *edit) error {
		o, err := j.openOperation(id)
		if err != nil {
			return err
		}
		switch {
		case o.Crashes() == 0: // it is known already
		case failed:
			o.Failed++
		default:
			o.Spared++
		}
		o.LastError = clip(lastError)
		return j.update(e, &o)
	})
}

// Reverting makes durable that the operation is undone from now on, and its
// first try at that; withdrawn, that it is not for a failure. There is no way
// back. Asking again costs nothing.
func (j *Journal) Reverting(ctx context.Context, id uint64, why string, withdrawn bool) error {
	return j.commitChange(ctx, "reverting", func(e *edit) error {
		o, err := j.openOperation(id)
		if err != nil {
			return err
		}
		if o.State == Reverting {
			return nil
		}
		o.State, o.UndoneAt, o.Withdrawn = Reverting, o.Attempts, withdrawn
		o.Failed, o.Spared, o.Found = 0, 0, ""
		o.Attempts++ // the first try at undoing
		o.LastError = clip(why)
		return j.update(e, &o)
	})
}

// openOperation is a copy of an open operation, to be changed.
func (j *Journal) openOperation(id uint64) (Operation, error) {
	o, bucket, err := j.find(id)
	if err != nil {
		return Operation{}, err
	}
	if bucket != BucketOpen {
		return Operation{}, fmt.Errorf("%s: %w", o, ErrTransition)
	}
	return o.clone(), nil
}

// update replaces an open operation.
func (j *Journal) update(e *edit, o *Operation) error {
	o.Updated = j.stamp()
	return put(e, j.open, idKey(o.ID), o, j.o.Limits.Open)
}

// Finish closes an operation as Done, Reverted or Superseded. It is lazy: the
// targets are free at once, and a crash before the next commit leaves the
// operation open, for recovery to find that nothing is left to do.
func (j *Journal) Finish(id uint64, state OperationState, outcome string) error {
	return j.End(Closing{ID: id, State: state, Outcome: outcome})
}

// End is Finish that may also count a failure of the goal. It is lazy.
func (j *Journal) End(c Closing) error {
	if c.State != Done && c.State != Reverted && c.State != Superseded {
		return fmt.Errorf("finish operation %d as %q: %w", c.ID, c.State, ErrTransition)
	}
	return j.laterChange("finish", func(e *edit) error { return j.end(e, c) })
}

func (j *Journal) end(e *edit, c Closing) error {
	old, _, err := j.find(c.ID)
	if err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	if err := j.count(e, old, c.Count, firstText(old.LastError, c.Outcome), c.Until); err != nil {
		return fmt.Errorf("finish %s: %w", old, err)
	}
	if c.State == Done {
		if f := old.Fingerprint(); !j.failures.newer(f) {
			remove(e, j.failures, f)
		}
	}
	if err := j.owe(e, c.Owes, owedFor(old), ""); err != nil {
		return fmt.Errorf("finish %s: %w", old, err)
	}
	return j.close(e, old, c.State, c.Outcome)
}

// owedFor is why something is owed after an operation.
func owedFor(o *Operation) string {
	text := fmt.Sprintf("operation %d changed", o.ID)
	for _, t := range o.Targets() {
		text += " " + string(t)
	}
	return text
}

func firstText(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}

// close moves an operation to the ring of closed ones, which loses its oldest.
func (j *Journal) close(e *edit, old *Operation, state OperationState, outcome string) error {
	if !old.State.Legal(state) {
		return fmt.Errorf("%s to %s: %w", old, state, ErrTransition)
	}
	o := old.clone()
	o.State, o.Outcome, o.Updated = state, clip(outcome), j.stamp()
	remove(e, j.open, idKey(o.ID))
	remove(e, j.quarantine, idKey(o.ID))
	key := idKey(j.ring)
	raw, err := e.codec.encode(BucketDone, key, &o)
	if err != nil {
		return fmt.Errorf("close %s: %w", &o, err)
	}
	j.prune(e, len(raw))
	if err := put(e, j.done, key, &o, j.o.Limits.Done); err != nil {
		return fmt.Errorf("close %s: %w", &o, err)
	}
	j.ring++
	j.closed[o.ID] = key // taken back, it is open again, and looked for there first
	return nil
}

// prune makes room in the ring for one more operation of n bytes. Records of a
// newer agent are not forgotten.
func (j *Journal) prune(e *edit, n int) {
	for !j.done.room(n, j.o.Limits.Done, j.o.Limits.Bytes) {
		oldest := ""
		for key := range j.done.all() {
			if oldest == "" || key < oldest {
				oldest = key
			}
		}
		o, ok := j.done.get(oldest)
		if !ok {
			return
		}
		remove(e, j.done, oldest)
		delete(j.closed, o.ID)
		e.undo = append(e.undo, func() { j.closed[o.ID] = oldest })
	}
}

// Quarantine takes hands off an open operation: its targets stay claimed, and
// only an operator, a changed goal or (for volatile kinds) a new boot lets go
// of them. What the operation may have changed is owed in the same commit.
func (j *Journal) Quarantine(ctx context.Context, id uint64, why string, owes ...string) error {
	return j.QuarantineFound(ctx, id, why, nil, owes...)
}

// QuarantineFound is Quarantine that keeps what the host was found to be, for
// whoever decides later. Where the record has no room for that, it goes without.
func (j *Journal) QuarantineFound(ctx context.Context, id uint64, why string, found []Finding, owes ...string) error {
	return j.commitChange(ctx, "quarantine", func(e *edit) error {
		o, err := j.openOperation(id)
		if err != nil {
			return fmt.Errorf("quarantine: %w", err)
		}
		for _, what := range owes {
			if err := j.owe(e, what, owedFor(&o), ""); err != nil {
				return fmt.Errorf("quarantine: %w", err)
			}
		}
		o.State, o.Outcome, o.Updated = Quarantined, clip(why), j.stamp()
		o.Findings = slices.Clone(found)
		remove(e, j.open, idKey(id))
		err = put(e, j.quarantine, idKey(id), &o, j.o.Limits.Quarantined)
		if err != nil && o.Findings != nil {
			o.Findings = nil
			err = put(e, j.quarantine, idKey(id), &o, j.o.Limits.Quarantined)
		}
		return err
	})
}

// Resolve lets an operator close a quarantined operation. how says what was
// decided about the host, who and why are kept with it.
func (j *Journal) Resolve(ctx context.Context, id uint64, how, who, why string) error {
	return j.commitChange(ctx, "resolve", func(e *edit) error {
		o, bucket, err := j.find(id)
		if err != nil {
			return fmt.Errorf("resolve: %w", err)
		}
		if bucket != BucketQuarantine {
			return fmt.Errorf("resolve %s: %w", o, ErrTransition)
		}
		return j.close(e, o, Resolved, fmt.Sprintf("%s, by %s: %s", how, who, why))
	})
}

// stamp is now, as records keep it.
func (j *Journal) stamp() time.Time { return stamp(j.o.Now()) }

// Err is why the journal takes no more changes after a commit of unknown
// outcome; nil while it does.
func (j *Journal) Err() error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.broken
}

// Warnings are what Open found that works but should not stay so.
func (j *Journal) Warnings() []string { return slices.Clone(j.warnings) }

// Size is the bytes that the journal takes on disk.
func (j *Journal) Size() int64 { return j.store.size() }

// Close makes visible changes durable and lets go of the file. It returns the
// error of that last commit.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.shut {
		j.mu.Unlock()
		return nil
	}
	j.shut = true
	j.stopTimer()
	j.mu.Unlock()
	return j.shutDown(j.Flush(context.Background()))
}

// Abandon lets go of the file as a crash does: what is not durable is lost.
func (j *Journal) Abandon() {
	j.mu.Lock()
	if j.shut {
		j.mu.Unlock()
		return
	}
	j.shut, j.abandoned = true, true
	j.stopTimer()
	j.mu.Unlock()
	_ = j.shutDown(nil)
}

func (j *Journal) stopTimer() {
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
}

func (j *Journal) shutDown(err error) error {
	j.committing.Lock()
	defer j.committing.Unlock()
	if cerr := j.store.close(); err == nil && cerr != nil {
		err = fmt.Errorf("close journal: %w", cerr)
	}
	if j.release != nil {
		j.release()
	}
	return err
}
