package agent

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// debugLook says what is looked at, and whether that is everything.
func (a *Agent) debugLook(requests []request, s scope) {
	what := "full pass"
	if !s.all {
		what = "look"
	}
	concerned := 0
	for _, r := range requests {
		if s.of(r) {
			concerned++
		}
	}
	level.Debug(a.logger).Log("count", concerned, "of", len(requests), "msg", what)
}

// observedText is what was observed, by kind, in one line.
func observedText(observed map[string]string) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(observed)) {
		all = append(all, kind+": "+observed[kind])
	}
	return strings.Join(all, ", ")
}

// debugAsked says what a command asked, and how long the answer took.
func (a *Agent) debugAsked(r *http.Request, began time.Time, err error) {
	level.Debug(a.logger).Log("component", "http", "method", r.Method, "path", r.URL.Path, "elapsed", time.Since(began), "err", err, "msg", "command answered")
}
