package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Order is what an operator asks for with agent release, pause and resume.
type Order struct {
	Targets []string // addresses, names, MACs or entries
	All     bool     // release: everything the agent touched, and everything that is asked for
	Cancel  bool     // release: cancel the order instead
	Dry     bool     // only say what would be done
	// stop is what a stop of the agent gives back, until its next start; nil is a
	// person's order.
	stop *stopScope
	Who  string
	Why  string
	// Allowed is the reason for which a release may cut the management path; "" is
	// that it may not.
	Allowed string
}

// OrderEntry is one target of an order, and what is or would be done there.
type OrderEntry struct {
	Target    drivers.Target `json:"target"`
	Entry     string         `json:"entry,omitempty"` // of the desired state that stands for it
	Condition Condition      `json:"condition"`
	Reason    string         `json:"reason,omitempty"`
	Steps     []StepReport   `json:"steps"`
	// Ordered says that the order stands in the journal.
	Ordered bool `json:"ordered"`

	along drivers.Target // the physical function that it goes with
}

// OrderReport is what agent release, pause and resume print.
type OrderReport struct {
	Action  string       `json:"action"` // "release", "cancel", "pause", "resume"
	DryRun  bool         `json:"dry_run"`
	Through string       `json:"through"` // "agent" or "journal"
	Who     string       `json:"who,omitempty"`
	Why     string       `json:"why,omitempty"`
	Entries []OrderEntry `json:"entries"`
}

// giveBack is how long a release waits for a function before it leaves the
// rest to the order.
const (
	giveBack      = 20 * time.Second
	giveBackAgain = 50 * time.Millisecond
)

var errReadOnly = errors.New("nothing may be written now")

// Release gives functions back, or says what that takes.
func (a *Agent) Release(ctx context.Context, o Order) (OrderReport, error) {
	report := OrderReport{Action: "release", DryRun: o.Dry, Through: "agent", Who: o.Who, Why: o.Why, Entries: []OrderEntry{}}
	if !o.Dry {
		if err := a.mayWrite(); err != nil {
			return report, err
		}
	}
	return a.release(ctx, o, report, a.current(ctx))
}

// release is Release with the desired state as it is resolved now.
func (a *Agent) release(ctx context.Context, o Order, report OrderReport, current []request) (OrderReport, error) {
	requests, err := a.orderRequests(ctx, o, current)
	if err != nil {
		return report, err
	}
	if o.Cancel {
		return a.cancelRelease(ctx, o, report, requests)
	}
	var ordered []drivers.Target
	for _, r := range requests {
		e, err := a.orderEntry(ctx, r, o, current, report.Entries)
		if err != nil {
			return report, err
		}
		if e.Ordered {
			ordered = append(ordered, r.target)
		}
		report.Entries = append(report.Entries, e)
	}
	away, err := a.orderAway(ctx, o, current)
	if report.Entries = append(report.Entries, away...); err != nil {
		return report, err
	}
	if o.Dry {
		a.sayBoundAgain(ctx, report.Entries)
		report.Entries = append(report.Entries, a.restEntries(ctx, o)...)
		return report, nil
	}
	defer a.claimRest()() // it is returned, and told of, here
	if err := a.orderRest(ctx, o); err != nil {
		return report, err
	}
	a.carryOut(ctx, ordered, o.patience())
	switch back := a.outcomes(ctx, report.Entries, ordered); {
	case back && o.All:
		report.Entries = append(report.Entries, a.returnRest(ctx, o.Why)...)
	case back && o.stop != nil:
		report.Entries = append(report.Entries, a.returnPools(ctx, givenBackWhole)...)
	}
	a.Wake()
	return report, nil
}

// orderEntry orders one function to be released, unless it may not be or goes along with
// one before it; an error ends the release of all.
func (a *Agent) orderEntry(ctx context.Context, r request, o Order, current []request, before []OrderEntry) (OrderEntry, error) {
	e, goes := a.goesAlong(ctx, r, o, before)
	if goes {
		return e, nil
	}
	e = a.viewFor(o).releaseEntry(ctx, r, o)
	switch {
	case !o.Dry && e.Condition != Refused || e.Ordered:
		err := a.orderRelease(ctx, r, o, current)
		switch {
		case err == nil:
			e.Ordered = true
		case !o.goesOnWithout(err):
			return e, err
		default:
			e.Condition, e.Reason, e.Ordered = Waiting, err.Error(), false
		}
	case !o.Dry:
		level.Warn(a.logger).Log("target", r.target, "who", o.Who, "why", o.Why, "err", e.Reason, "msg", "not released")
	}
	return e, nil
}

// orderAway orders the functions that entries stood for and that are gone: pulled out, say.
// What was done to them went with them, and they are to be left alone when they are back.
func (a *Agent) orderAway(ctx context.Context, o Order, current []request) (entries []OrderEntry, err error) {
	if !o.All || o.stop != nil {
		return nil, nil
	}
	for _, r := range current {
		was, known := a.stoodFor(r)
		if !known || !errors.Is(r.err, errNobody) || r.ordered() || r.released() || !a.view.gone(ctx, was.Target) {
			continue
		}
		entries = append(entries, OrderEntry{
			Target: was.Target, Entry: r.entry, Condition: Released, Steps: []StepReport{},
			Reason: "it is gone, and is left alone when it is back; to cancel then: agent release --cancel " + string(was.Target),
		})
		if _, ok := a.c.Journal.Control(orderReleased, was.Target); o.Dry || ok {
			continue
		}
		if err := a.keepAway(ctx, o, r, was, current); err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// keepAway keeps an order for a function that is gone.
func (a *Agent) keepAway(ctx context.Context, o Order, r request, was journal.Selection, current []request) error {
	c := journal.Control{Action: orderReleased, Target: was.Target, Who: o.Who, Why: o.Why, Facts: map[string]string{}}
	c.Facts[factEntries] = strings.TrimSpace(digestOf(r.asked.Interface) + " " + digestsFor(current, was.Target))
	if was.Identity != (drivers.Identity{}) {
		if err := identify(&c, was.Identity); err != nil {
			return err
		}
	}
	if err := a.c.Journal.SetControl(ctx, c); err != nil {
		return err
	}
	level.Warn(a.logger).Log("target", was.Target, "who", o.Who, "why", o.Why, "msg", "order to release")
	_, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return b.Key.Target == was.Target })
	return err
}

// stoodFor is the function that an entry stood for last, as far as is known.
func (a *Agent) stoodFor(r request) (journal.Selection, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.remembered, func(s journal.Selection) bool { return s.Selector == r.entry }); i >= 0 {
		return a.remembered[i], true
	}
	t := r.asked.Selector.PCI
	touched := slices.ContainsFunc(a.c.Journal.Baselines(), func(b journal.Baseline) bool { return b.Key.Target == t })
	return journal.Selection{Selector: r.entry, Target: t}, t != "" && touched
}

// goesOnWithout says that the others are given back without a function for which there
// could be no order.
func (o Order) goesOnWithout(err error) bool {
	return o.stop != nil || !o.named() && errors.As(err, &unidentified{})
}

// outcomes puts into the entries how they stand now, and says whether all are
// back.
func (a *Agent) outcomes(ctx context.Context, entries []OrderEntry, ordered []drivers.Target) bool {
	current, back := a.current(ctx), true
	for i, e := range entries {
		switch {
		case slices.Contains(ordered, e.Target):
			entries[i] = a.outcome(ctx, e, current)
		case e.along != "":
			entries[i] = a.outcomeAlong(ctx, e)
		}
		if e := &entries[i]; e.Condition == Pending && e.Reason == "" {
			e.Reason = "not back yet; the agent goes on with it, and agent status tells when it is"
		}
		back = back && entries[i].Condition == Released
	}
	a.sayBoundAgain(ctx, entries)
	return back
}

// current is the desired state in force, resolved now.
func (a *Agent) current(ctx context.Context) []request {
	a.mu.Lock()
	entries, remembered := slices.Clone(a.entries), slices.Clone(a.remembered)
	a.mu.Unlock()
	return a.view.resolve(ctx, entries, remembered)
}

// orderRequests are the functions that an order is about, each once.
func (a *Agent) orderRequests(ctx context.Context, o Order, current []request) ([]request, error) {
	var targets []drivers.Target
	for _, name := range o.Targets {
		t, err := a.view.named(ctx, name, current)
		if _, _, entry := t.FileEntry(); entry {
			err = fmt.Errorf("%s is withdrawn with its functions: release these, or ask for them without it", name)
		}
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	switch {
	case o.stop != nil:
		targets = slices.Clone(o.stop.targets)
	case o.All:
		targets = append(targets, a.view.touched(ctx, current, o.Cancel)...)
	}
	slices.Sort(targets)
	var requests []request
	for _, t := range slices.Compact(targets) {
		r := request{asked: entry{Interface: source.Interface{Selector: source.Selector{PCI: t}}}, target: t}
		r.entry = r.asked.String()
		if i := slices.IndexFunc(current, func(c request) bool { return c.target == t }); i >= 0 {
			r = current[i]
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// named is the function that a person means: by its address, or as an entry of
// the desired state or a network device is called.
func (v View) named(ctx context.Context, name string, current []request) (drivers.Target, error) {
	kind, short, _ := strings.Cut(name, " ")
	if kind != "pci" && kind != "mac" && kind != "name" || short == "" {
		short = name
	}
	for _, r := range current {
		s := r.asked.Selector
		if r.target != "" && (r.entry == name || s.Name == short || s.MAC == strings.ToLower(short) && s.MAC != "") {
			return r.target, nil
		}
	}
	if t, err := drivers.PCI(short); err == nil {
		if _, err := host.Identify(ctx, v.Host, t); err != nil {
			return "", fmt.Errorf("%w: agent inventory lists what is there", err)
		}
		return t, nil
	}
	links, err := v.Host.Links(ctx)
	if err != nil {
		return "", fmt.Errorf("list network devices: %w", err)
	}
	selector := source.Selector{Name: short}
	if strings.Count(short, ":") == 5 {
		selector = source.Selector{MAC: strings.ToLower(short)}
	}
	t, err := v.find(ctx, selector, links, nil)
	if err != nil {
		return "", fmt.Errorf("%w: want a PCI address, a network device or an entry of agent status", err)
	}
	return t, nil
}

// touched are the functions that the agent changed in this boot, or is asked
// to change; or those under an order to release.
func (v View) touched(ctx context.Context, current []request, ordered bool) (targets []drivers.Target) {
	for _, c := range v.Records.Controls() {
		if c.Action == orderReleased && ordered || c.Action == orderAdopted && !ordered {
			targets = append(targets, c.Target)
		}
	}
	if ordered {
		return targets
	}
	for _, r := range current {
		targets = append(targets, r.target)
	}
	for _, b := range v.Records.Baselines() {
		targets = append(targets, b.Key.Target)
	}
	return slices.DeleteFunc(targets, func(t drivers.Target) bool {
		_, pci := t.PCIAddress()
		return !pci || v.gone(ctx, t)
	})
}

// releaseEntry is what an order to release would do. For everything, a function
// that the agent never touched is left as it is.
func (v View) releaseEntry(ctx context.Context, r request, o Order) OrderEntry {
	e := OrderEntry{Target: r.target, Steps: []StepReport{}, Ordered: r.order != nil}
	if !r.ordered() {
		e.Entry = r.entry
	}
	if r.order == nil {
		r = v.underOrder(ctx, r, o)
	}
	p, _ := v.planUncounted(ctx, r) // what failed before is tried again: a person asks
	e.Condition, e.Reason, e.Steps = p.Condition, p.Reason, p.Steps
	if r.err != nil && e.Ordered {
		e.Condition = r.condition
	}
	if e.Condition == Released && !e.Ordered {
		e.Reason = "it is back already, and will be left alone"
	}
	return e
}

// underOrder is the request as it will be once the order stands.
func (v View) underOrder(ctx context.Context, r request, o Order) request {
	c := journal.Control{Action: orderReleased, Target: r.target, Who: o.Who, Why: o.Why, Facts: map[string]string{}}
	if v.notOurs(ctx, r.target, o) {
		c.Facts[factLetGo] = "true"
	}
	r.order, r.err, r.first = &c, nil, nil
	v.ask(ctx, &r)
	return r
}

// notOurs says that an order for all there is leaves a function alone: it was never
// changed. A VF that the agent made is not left alone where its physical function stays.
func (v View) notOurs(ctx context.Context, t drivers.Target, o Order) bool {
	if o.named() || v.everTouched(t) {
		return false
	}
	id, err := host.Identify(ctx, v.Host, t)
	return o.stop == nil || err != nil || slices.Contains(o.stop.targets, id.PF) || !v.baselines().MadeVF(t, id)
}

// everTouched says whether the agent changed the target in this boot, or was
// told what to give it back to.
func (v View) everTouched(t drivers.Target) bool {
	_, adopted := v.Records.Control(orderAdopted, t)
	return adopted || v.changed(t)
}

// changed says whether the agent changed the target in this boot, and did not see
// it back since.
func (v View) changed(t drivers.Target) bool {
	return slices.ContainsFunc(v.Records.Baselines(), func(b journal.Baseline) bool {
		_, ok := v.Records.Baseline(b.Key)
		return ok && b.Key.Target == t
	})
}

// orderRelease gives the order, unless it stands already. What failed before is
// tried again: a person asks.
func (a *Agent) orderRelease(ctx context.Context, r request, o Order, current []request) error {
	concerned := func(t drivers.Target) bool { return t == r.target }
	a.drifts.askedAnew(concerned, r.target)
	if _, err := a.c.Journal.ClearFailures(ctx, func(f journal.Failure) bool {
		return o.stop == nil && slices.ContainsFunc(f.Keys, func(k drivers.Key) bool { return k.Target == r.target })
	}); err != nil {
		return err
	}
	if o.stands(r.order) {
		return a.allowOrdered(ctx, *r.order, o)
	}
	c, err := a.view.orderFor(ctx, orderReleased, r.target, o.Who, o.Why)
	if err != nil {
		return err
	}
	if o.Allowed != "" {
		c.Facts[factAllowed] = o.Allowed
	}
	c.Facts[factEntries] = digestsFor(current, r.target)
	if o.stop != nil {
		c.Facts[factStop] = "true"
	}
	if under := a.view.underOrder(ctx, r, o); under.letGo() || r.order != nil && r.letGo() {
		c.Facts[factLetGo] = "true"
	}
	if err := a.c.Journal.SetControl(ctx, c); err != nil {
		return err
	}
	level.Warn(a.logger).Log("target", r.target, "who", o.Who, "why", o.Why, "msg", "order to release")
	return nil
}

// allowOrdered adds to an order that stands why it may cut the management path.
func (a *Agent) allowOrdered(ctx context.Context, c journal.Control, o Order) error {
	if o.Allowed == "" || c.Facts[factAllowed] == o.Allowed {
		return nil
	}
	c.Facts = maps.Clone(c.Facts)
	if c.Facts == nil {
		c.Facts = map[string]string{}
	}
	c.Facts[factAllowed] = o.Allowed
	return a.c.Journal.SetControl(ctx, c)
}

// viewFor is the view with the reason that an order gives for the management
// path, before the order stands.
func (a *Agent) viewFor(o Order) View {
	v := a.view
	if o.Allowed != "" {
		v.Guard = a.guard.Allowing(func(drivers.Target) string { return o.Allowed })
	}
	return v
}

// cancelRelease ends orders to release: what is asked holds again.
func (a *Agent) cancelRelease(ctx context.Context, o Order, report OrderReport, requests []request) (OrderReport, error) {
	report.Action = "cancel"
	for _, r := range requests {
		if _, ok := a.c.Journal.Control(orderReleased, r.target); !ok {
			return report, fmt.Errorf("%s is under no order to release: agent status shows those that are", r.target)
		}
		if !o.Dry {
			if _, err := a.c.Journal.ClearControl(ctx, orderReleased, r.target); err != nil {
				return report, err
			}
			level.Warn(a.logger).Log("target", r.target, "who", o.Who, "why", o.Why, "msg", "order to release is cancelled")
			a.endRest(ctx, "an order to release is cancelled")
		}
		report.Entries = append(report.Entries, a.view.cancelled(ctx, r))
	}
	a.Wake()
	return report, nil
}

// cancelled is how a function stands once its order is cancelled.
func (v View) cancelled(ctx context.Context, r request) OrderEntry {
	e := OrderEntry{Target: r.target, Condition: Released, Reason: "nothing asks for it: it is left as it is", Steps: []StepReport{}}
	if r.ordered() {
		return e
	}
	r.order, r.err = nil, nil
	v.ask(ctx, &r)
	p := v.planEntry(ctx, r)
	e.Entry, e.Condition, e.Reason, e.Steps = r.entry, p.Condition, p.Reason, p.Steps
	return e
}

// sayBoundAgain says of which functions another tool undoes the release at the
// next boot: its files are not the agent's to remove.
func (a *Agent) sayBoundAgain(ctx context.Context, entries []OrderEntry) {
	for i := range entries {
		e := &entries[i]
		for _, l := range a.driverctl(ctx, e.Target) {
			e.Reason = strings.TrimPrefix(fmt.Sprintf("%s; but %s %s: rm it to keep the function back", e.Reason, l.Path, l.Found), "; but ")
		}
	}
}

// result turns what became of an operation into how its target stands.
func (e *OrderEntry) result(r engine.Result) {
	if r.Outcome == engine.Done {
		e.Condition = Released
		return
	}
	e.Condition = conditionOf(r.Err)
	if r.Outcome == engine.Quarantined {
		e.Condition = Quarantined
	}
	if r.Err != nil {
		e.Reason = r.Err.Error()
	}
}

// Query is the order as the parameters of a request on the control socket.
func (o Order) Query() url.Values {
	return url.Values{
		"target": o.Targets, "all": {strconv.FormatBool(o.All)}, "cancel": {strconv.FormatBool(o.Cancel)},
		"dry": {strconv.FormatBool(o.Dry)}, "who": {o.Who}, "why": {o.Why}, "allowed": {o.Allowed},
	}
}

func orderOf(q url.Values) Order {
	is := func(name string) bool { return q.Get(name) == "true" }
	return Order{
		Targets: q["target"], All: is("all"), Cancel: is("cancel"), Dry: is("dry"), Who: q.Get("who"), Why: q.Get("why"), Allowed: q.Get("allowed"),
	}
}
