package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/client-go/rest"

	"eniagent/agent"
	"eniagent/agent/source/nodeeni"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// member is a node of a fleet: an agent in this process, on an instance of its own.
type member struct {
	name   string
	kernel *sim.Kernel
	agent  *agent.Agent
	stop   context.CancelCauseFunc
	ended  chan error
}

// fleet are many nodes, and what they ask of the API.
type fleet struct {
	t       testing.TB
	members []*member
	by      map[string]*member
	meter   *meter
	logged  *warnings
	enis    int
}

// newFleet starts so many nodes with so many ENIs each.
func newFleet(t testing.TB, c *cluster, prefix string, nodes, enis int) *fleet {
	t.Helper()
	f := &fleet{t: t, by: map[string]*member{}, meter: &meter{counts: map[string]int{}}, logged: &warnings{}, enis: enis}
	metadata := httptest.NewServer(http.HandlerFunc(f.metadata))
	t.Cleanup(metadata.Close)
	for i := range nodes {
		m := &member{name: fmt.Sprintf("%s-%d", prefix, i)}
		m.kernel = sim.New(fenced(instanceOf(m.name, enis)))
		f.members = append(f.members, m)
		f.by[m.name] = m
	}
	for _, m := range f.members {
		if err := f.start(m, c.env.Config, metadata.URL+"/"+m.name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(f.stop)
	return f
}

func fenced(c sim.Config) sim.Config {
	c.Fence = true
	return c
}

// metadata are those of all instances, each below its name.
func (f *fleet) metadata(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	enis := map[string]string{}
	for i := range f.enis {
		enis[macOf(name, i)] = eniOf(name, i)
	}
	http.StripPrefix("/"+name, instance(enis)).ServeHTTP(w, r)
}

// start starts a member's agent as agent run does, with a connection of its own and
// the requests a second that a client has by default.
func (f *fleet) start(m *member, config *rest.Config, metadata string) error {
	var ctx context.Context
	ctx, m.stop = context.WithCancelCause(context.Background())
	bootID, err := host.BootID(ctx, m.kernel)
	if err != nil {
		return err
	}
	j, err := journal.OpenMemory(ctx, journal.NewMemory(), journal.Options{BootID: bootID, MachineID: m.name})
	if err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 0, 0
	config.Dial = (&net.Dialer{}).DialContext
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return metered{f.meter, rt} })
	logger := level.NewFilter(log.With(log.NewLogfmtLogger(f.logged), "node", m.name), level.AllowWarn())
	s, err := nodeeni.New(nodeeni.Options{Node: m.name, Config: config, Metadata: metadata, Logger: logger})
	if err != nil {
		return err
	}
	m.agent = agent.New(agent.Config{
		Journal: j, Host: m.kernel, Source: s, Name: nodeeni.Name, Object: nodeeni.Object, Logger: logger,
		BootID: bootID, MachineID: m.name, Interval: 30 * time.Second, PluginFile: pluginFile,
	})
	m.ended = make(chan error, 1)
	go func() {
		err := m.agent.Reconcile(ctx)
		m.ended <- errors.Join(err, j.Close())
	}()
	return nil
}

var errOver = errors.New("the test is over")

func (f *fleet) stop() {
	for _, m := range f.members {
		m.stop(errOver)
	}
	for _, m := range f.members {
		if err := <-m.ended; !errors.Is(err, errOver) {
			f.t.Errorf("agent of %s: %v", m.name, err)
		}
	}
	if f.t.Failed() {
		f.t.Logf("the agents warned\n%s", f.logged)
	}
}

// warnings keep the first that were logged, and count all but those that the
// device plugin's restart is owed for.
type warnings struct {
	mu    sync.Mutex
	lines []string
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := string(p); !strings.Contains(s, "why=plugin-restart") && len(w.lines) < 1000 {
		w.lines = append(w.lines, s)
	}
	return len(p), nil
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d lines\n%s", len(w.lines), strings.Join(w.lines[:min(20, len(w.lines))], ""))
}

// meter counts requests by verb and answer, and the bytes of what is watched.
type meter struct {
	watched atomic.Int64

	mu     sync.Mutex
	counts map[string]int
}

// metered is a transport that is counted.
type metered struct {
	*meter
	http.RoundTripper
}

// RoundTrip sends a request.
func (m metered) RoundTrip(r *http.Request) (*http.Response, error) {
	what := map[string]string{http.MethodGet: "list", http.MethodPatch: "patch"}[r.Method]
	if r.URL.Query().Get("watch") != "" {
		what = "watch"
	}
	answer, err := m.RoundTripper.RoundTrip(r)
	m.mu.Lock()
	m.counts[what]++
	switch {
	case err != nil:
		m.counts[what+" without an answer"]++
	case answer.StatusCode != http.StatusOK:
		m.counts[fmt.Sprintf("%s %d", what, answer.StatusCode)]++
	}
	m.mu.Unlock()
	if err == nil && what == "watch" {
		answer.Body = counted{answer.Body, m.meter}
	}
	return answer, err
}

type counted struct {
	io.ReadCloser
	*meter
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.watched.Add(int64(n))
	return n, err
}

// since is what was asked since an earlier count, which then is this one.
func (m *meter) since(last map[string]int) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	diff := map[string]int{}
	for what, n := range m.counts {
		if n != last[what] {
			diff[what] = n - last[what]
		}
		last[what] = n
	}
	return diff
}
