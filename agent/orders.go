package agent

import (
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

	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// The standing orders of an operator, as the journal keeps them. They outrank
// what every source asks.
const (
	orderReleased = "released" // the function is given back, and left alone then
	orderPaused   = "paused"   // nothing is begun, replayed or reverted; "" is the whole node
	orderRest     = "rest"     // what the functions needed, such as modules, follows the last of them
	orderUnread   = "unread"   // in no journal: stands for one that this agent cannot read
	orderAdopted  = "adopted"  // what release restores of a function found in another hand
)

// ReleaseSource and OperatorSource are the sources, in a journal's reasons, of
// what an operator asked for by agent release and agent resolve.
const (
	ReleaseSource  = "release"
	OperatorSource = "operator"
)

// The facts of an order.
const (
	factEntries  = "entries"  // digests of what the source asked when it was given
	factIdentity = "identity" // of the device that it was given for
	factLetGo    = "let_go"   // the function was seen to be back
	factDriver   = "driver"   // that release restores
	factStop     = "stop"     // it stands until the agent starts again
	factAllowed  = "allowed"  // why the management path may be cut for it
)

// unidentified is why there can be no order for a function: it is gone, or cannot be read.
type unidentified struct{ error }

func (e unidentified) Unwrap() error { return e.error }

// orderFor is an order for a function, with what tells later whether it still
// holds: the device, and what the source asked of it.
func (v View) orderFor(ctx context.Context, action string, t drivers.Target, who, why string) (journal.Control, error) {
	c := journal.Control{Action: action, Target: t, Who: who, Why: why, Facts: map[string]string{}}
	id, err := host.Identify(ctx, v.Host, t)
	if err != nil {
		return c, unidentified{err}
	}
	return c, identify(&c, id)
}

// identify puts into an order what tells its function from another one at the address.
func identify(c *journal.Control, id drivers.Identity) error {
	// The order outlives the boot, and these do not.
	id.Incarnation, id.PFIncarnation, id.Netdev = 0, 0, 0
	b, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("keep identity of %s: %w", c.Target, err)
	}
	c.Facts[factIdentity] = string(b)
	return nil
}

// otherDevice names what tells the device at an order's target from the one
// that it was given for; "" when it is the same, or nobody can tell now.
func (v View) otherDevice(ctx context.Context, c journal.Control) string {
	var was drivers.Identity
	if json.Unmarshal([]byte(c.Facts[factIdentity]), &was) != nil {
		return ""
	}
	now, err := host.Identify(ctx, v.Host, c.Target)
	if err != nil {
		return ""
	}
	return was.Difference(now)
}

// digestOf names what one entry asks while the agent runs.
func digestOf(i source.Interface) string {
	b, err := json.Marshal(i.Asks())
	if err != nil {
		return err.Error() // equal to no other; strings and numbers always encode
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// digestsOf names what the entries of a source ask of a function. To be given
// back, as a VF is with its physical function, is what the order says too.
func digestsOf(requests []request, t drivers.Target) string {
	var digests []string
	for _, r := range requests {
		if r.target == t && !r.ordered() && r.asked.State != source.Released {
			digests = append(digests, digestOf(r.asked.Interface))
		}
	}
	return strings.Join(digests, " ")
}

// digestsFor names what the entries of a source ask when an order for a function is
// given: those of the function, and those that are found by a name or a MAC address, which
// may lead to it later. The release itself gives a function its netdev back.
func digestsFor(requests []request, t drivers.Target) string {
	digests := strings.Fields(digestsOf(requests, t))
	for _, r := range requests {
		if s := r.asked.Selector; r.target != t && !r.ordered() && (s.Name != "" || s.MAC != "") && r.asked.State != source.Released {
			digests = append(digests, digestOf(r.asked.Interface))
		}
	}
	return strings.Join(digests, " ")
}

// lapsed says why an order to release does not hold any more; "" while it does.
// An entry that is away, or cannot be resolved just now, asks for nothing anew.
func (v View) lapsed(ctx context.Context, c journal.Control, requests []request) string {
	if field := v.otherDevice(ctx, c); field != "" {
		return "another device is at its address now: its " + field + " differs"
	}
	were := strings.Fields(c.Facts[factEntries])
	for _, now := range strings.Fields(digestsOf(requests, c.Target)) {
		if !slices.Contains(were, now) {
			return "the source asks anew"
		}
	}
	return ""
}

// ordered says that no source asks for it: only a standing order does.
func (r *request) ordered() bool { return r.asked.State == "" }

// released says that the function is to be given back, by its entry or by an
// order that outranks it.
func (r *request) released() bool { return r.order != nil || r.asked.State == source.Released }

// letGo says that the function was seen to be back, and is left alone since.
func (r *request) letGo() bool {
	if r.again {
		return false
	}
	if r.order != nil {
		return r.order.Facts[factLetGo] != ""
	}
	return r.asked.LetGo
}

// why says by whom the function was released; "" when its entry says so.
func (r *request) why() string {
	if r.order == nil {
		return ""
	}
	return fmt.Sprintf("%s; to cancel: agent release --cancel %s", orderText(*r.order), r.target)
}

// orderText is who gave an order, when, and why.
func orderText(c journal.Control) string {
	s := fmt.Sprintf("by %s since %s", c.Who, c.Created.Format(time.RFC3339))
	if c.Why != "" {
		s += ": " + c.Why
	}
	return s
}

// outrank puts the orders to release of a scope above the entries. A function that no
// entry stands for is there for its order alone, until it is back.
func (v View) outrank(ctx context.Context, requests []request, s scope) []request {
	for _, c := range v.Records.Controls() {
		if c.Action != orderReleased || !s.has(c.Target) || v.lapsed(ctx, c, requests) != "" {
			continue
		}
		alone := request{asked: entry{Interface: source.Interface{Selector: source.Selector{PCI: c.Target}}}, target: c.Target, order: &c}
		alone.entry = alone.asked.String()
		found := false
		for i := range requests {
			r := &requests[i]
			if r.target == c.Target {
				r.order = &c
			}
			found = found || r.target == c.Target || r.entry == alone.entry
		}
		if !found && !(alone.letGo() && v.gone(ctx, c.Target)) {
			requests = append(requests, alone)
		}
	}
	return requests
}

// ordered says that a function is to be given back by an order.
func (v View) ordered(ctx context.Context, t drivers.Target, requests []request) bool {
	return slices.ContainsFunc(v.Records.Controls(), func(c journal.Control) bool {
		return c.Action == orderReleased && c.Target == t && v.lapsed(ctx, c, requests) == ""
	})
}

// gone says that there is no such device now.
func (v View) gone(ctx context.Context, t drivers.Target) bool {
	_, err := host.Identify(ctx, v.Host, t)
	return errors.Is(err, drivers.ErrGone)
}

// dropLapsed cancels the orders of a scope that do not hold any more.
func (a *Agent) dropLapsed(ctx context.Context, requests []request, s scope) {
	if a.readOnly() {
		return
	}
	for _, c := range a.c.Journal.Controls() {
		if c.Action != orderReleased || !s.has(c.Target) {
			continue
		}
		if why := a.view.lapsed(ctx, c, requests); why != "" {
			_, err := a.c.Journal.ClearControl(ctx, c.Action, c.Target)
			level.Info(a.logger).Log("target", c.Target, "why", why, "err", err, "msg", "order to release is over")
			a.endRest(ctx, "an order to release is over")
		}
	}
}

// noteLetGo keeps with the order that the function is back.
func (a *Agent) noteLetGo(ctx context.Context, c journal.Control) error {
	c.Facts = maps.Clone(c.Facts)
	if c.Facts == nil {
		c.Facts = map[string]string{}
	}
	c.Facts[factLetGo] = "true"
	return a.c.Journal.SetControl(ctx, c)
}

// paused is the order by which nothing is done to a target; "" is the node. A
// newer agent's order that cannot be read may say the same.
func (v View) paused(targets ...drivers.Target) (journal.Control, bool) {
	for _, t := range append([]drivers.Target{""}, targets...) {
		if c, ok := v.Records.Control(orderPaused, t); ok {
			return c, true
		}
	}
	for _, u := range v.Records.Unreadable() {
		if u.Bucket == journal.BucketControl && (len(u.Targets) == 0 || slices.ContainsFunc(targets, u.Covers)) {
			return journal.Control{Action: orderUnread, Why: fmt.Sprintf("order %s: %v", u.Key, u.Err)}, true
		}
	}
	return journal.Control{}, false
}

// pausedText says which order pauses, and how to end it.
func pausedText(c journal.Control) string {
	if c.Action == orderUnread {
		return c.Why + "; to go on: install that agent again"
	}
	what := "paused "
	if c.Target == "" {
		what = "the whole node is paused "
	}
	return what + orderText(c) + "; to go on: " + strings.TrimSpace("agent resume "+string(c.Target))
}

// adopted is what an operator said that release restores of a function which
// was found in another hand. It holds in every boot, for the same device.
func (v View) adopted(ctx context.Context, t drivers.Target) (drivers.State, bool) {
	c, ok := v.Records.Control(orderAdopted, t)
	if !ok || c.Facts[factDriver] == "" || v.otherDevice(ctx, c) != "" {
		return "", false
	}
	return dpdk.Bound(c.Facts[factDriver]), true
}
