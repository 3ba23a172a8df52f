package agent

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// noted is a test that keeps to itself what is wrong, so that one of a broken
// variant can say whether the check notices it.
type noted struct {
	testing.TB

	mu    sync.Mutex
	wrong []string
}

func (n *noted) Errorf(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wrong = append(n.wrong, fmt.Sprintf(format, args...))
}

func (n *noted) Error(args ...any) { n.Errorf("%s", fmt.Sprint(args...)) }

// notices fails unless a check that is run with a broken agent finds something
// wrong that says what it is to see.
func notices(t *testing.T, sees string, check func(t testing.TB)) {
	t.Helper()
	n := &noted{TB: t}
	check(n)
	for _, w := range n.wrong {
		if strings.Contains(w, sees) {
			return
		}
	}
	t.Errorf("not noticed by %q; found was %.2000q", sees, n.wrong)
}
