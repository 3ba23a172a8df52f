package agent

import (
	"cmp"
	"context"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/journal"
)

// unverified are the pools of ours that name a function that is not as asked, and
// what their entries would be brought to. In a boot in which nothing was seen yet,
// one that cannot be looked at is not as asked: its devices may be gone.
func (v View) unverified(ctx context.Context, requests []request) (entries []PlanEntry) {
	for _, r := range requests {
		if r.pool == "" || r.err != nil {
			continue
		}
		op, open := v.open(r.target)
		if open && op.State == journal.Quarantined {
			continue // hands off
		}
		draft, observed, err := v.examine(ctx, &r)
		if _, paused := v.paused(r.target); paused || err != nil || len(left(draft, r.target)) == 0 {
			continue
		}
		key := poolKey(r.target)
		entries = append(entries, PlanEntry{
			Entry: r.entry, Target: r.target, Condition: Pending, Reason: cmp.Or(r.later, "nothing asks for it"),
			Steps: []StepReport{{Kind: key.Kind, Target: key.Target, From: observed[key].State, To: draft.After[key]}},
		})
	}
	return entries
}

// outlived withdraws what a pool of ours names and is not as asked: a file
// survives a reboot, and its devices do not. Until that is done, nothing else
// is, and the agent is not ready. In a new boot the plugin may have read the
// file before its devices were as asked, so that its restart is owed, unless the
// withdrawal owes it already.
func (a *Agent) outlived(ctx context.Context) {
	if a.readOnly() || len(a.view.ownPools()) == 0 {
		a.mu.Lock()
		a.dutiful = true
		a.mu.Unlock()
		return
	}
	before, _ := a.c.Journal.Debt(deviceplugin.Restart)
	published := false
	for _, r := range a.current(ctx) {
		if r.pool == "" || r.err != nil {
			continue
		}
		if _, paused := a.view.paused(r.target); paused {
			continue
		}
		if op, held := a.holder(r.target); held && op.State.Open() {
			a.resume(ctx, op.ID)
		}
		was := a.view.observer().Observe(ctx, poolKey(r.target))
		published = published || was.Presence != drivers.Present || was.State != deviceplugin.Absent
		a.withdraw(ctx, r)
	}
	after, _ := a.c.Journal.Debt(deviceplugin.Restart)
	var err error
	if a.c.Journal.RecoveredBoot() != a.c.BootID && published && after.Owed == before.Owed {
		err = a.c.Journal.Owe(ctx, deviceplugin.Restart, "the machine was booted: the plugin may have started before its functions were as asked", a.c.BootID)
	}
	if err != nil {
		a.failure(ctx).Log("err", err, "msg", "not kept that the device plugin must be restarted")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dutiful = err == nil
}

// withdraw takes out of one pool what is not as asked, and notes where that
// could not be done yet.
func (a *Agent) withdraw(ctx context.Context, r request) {
	for _, e := range a.view.unverified(ctx, []request{r}) {
		s := e.Steps[0]
		a.mu.Lock()
		a.unsafe[r.target] = true
		a.mu.Unlock()
		// Where recovery has left an operation open on it, this one is not begun.
		result := a.engine.Run(ctx, draftOf(s.key(), s.From, s.To), a.reason(r))
		level.Warn(a.logger).Log("entry", r.entry, "op", result.Operation, "outcome", result.Outcome, "err", result.Err, "why", e.Reason,
			"msg", "pool names what is not as asked, withdrawn")
		a.after(result, false, r.target)
		if result.Outcome == engine.Done || result.Outcome == engine.Quarantined {
			a.isSafe(r.target)
		}
	}
}

// isSafe notes that a pool names nothing that is not as asked.
func (a *Agent) isSafe(pool drivers.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unsafe, pool)
}

// dutyDone says that what an earlier boot left in files was dealt with.
func (a *Agent) dutyDone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dutiful && len(a.unsafe) == 0
}

// RestartReport is what the device plugin is owed.
type RestartReport struct {
	Owed uint64 `json:"owed"` // changes since its last restart that is known of
	// Number is what to say when it was restarted: what came to be owed since then
	// has a higher one.
	Number uint64    `json:"number"`
	Why    string    `json:"why,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Last   time.Time `json:"last,omitzero"` // of these changes
	// Automatic says that the agent sees to the restart itself, Waiting what it
	// waits for; Error why the last try failed, and Again when the next is.
	Automatic bool      `json:"automatic,omitempty"`
	Waiting   string    `json:"waiting,omitempty"`
	Error     string    `json:"error,omitempty"`
	Again     time.Time `json:"again,omitzero"`
}

// RestartOwed is what the journal says is owed to the device plugin; false when
// nothing is.
func (v View) RestartOwed() (RestartReport, bool) {
	d, _ := v.Records.Debt(deviceplugin.Restart)
	return RestartReport{Owed: d.Open(), Number: d.Owed, Why: d.Why, Since: d.Since, Last: d.Last}, d.Open() > 0
}

// RestartOwed is the view's, and what the agent does about it.
func (a *Agent) RestartOwed() (RestartReport, bool) {
	r, owed := a.view.RestartOwed()
	if owed {
		a.payer.report(&r)
	}
	return r, owed
}

// PluginRestarted notes that the device plugin was restarted after the change
// of that number; what came later is owed still, and returned.
func (a *Agent) PluginRestarted(ctx context.Context, number uint64, who string) (RestartReport, error) {
	if err := a.mayWrite(); err != nil {
		return RestartReport{}, err
	}
	if _, err := a.c.Journal.Pay(ctx, deviceplugin.Restart, number, who); err != nil {
		return RestartReport{}, err
	}
	a.payer.wasPaid(number)
	r, _ := a.RestartOwed()
	level.Info(a.logger).Log("who", who, "count", r.Owed, "msg", "device plugin was restarted")
	return r, nil
}
