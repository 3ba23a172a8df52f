package agent

import (
	"errors"
	"fmt"

	"eniagent/agent/plan"
	"eniagent/drivers"
)

// A read that failed is no answer. Whatever could not be read is what it was last
// read to be, until a read says otherwise: nothing is withdrawn, dropped or given
// back for it.
//
// Much of what resolves an entry asks only whether something is there, and to such
// a question a read that failed looks like a no. So the view's host notes, with
// the context of a question, each read that failed on the way to its answer
// (host.Noting), and whoever asked holds the whole answer for unread then. That holds
// for code that drops the error of a read, too.

// unreadable leaves a request alone until what it asks about can be read.
func (r *request) unreadable(err error) {
	if !errors.Is(err, errUnseen) {
		err = fmt.Errorf("%w: %w", errUnseen, err)
	}
	r.cannot(Waiting, err)
	r.unread, r.identity = true, drivers.Identity{}
}

// lastVFs are the virtual functions that a physical one was last asked to have.
func (v View) lastVFs(pf drivers.Target) []drivers.Target {
	for _, d := range v.Records.Sources() {
		for _, g := range d.Goals {
			if spec, ok := v.Drivers.Specs.Find(g.Key.Kind); ok && g.Key.Target == pf && spec.Makes != nil {
				return spec.Makes(g.State)
			}
		}
	}
	return nil
}

// unseenIn says that some of what was looked at could not be read.
func unseenIn(observed plan.Observed) bool {
	for _, o := range observed {
		if o.Presence == drivers.Unobservable {
			return true
		}
	}
	return false
}
