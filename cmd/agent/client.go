package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"eniagent/agent"
	"eniagent/agent/guard"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/supervise"
)

// errNobody is returned by ask when no agent answers on the socket.
var errNobody = errors.New("no agent answers")

// errNotKnown is returned by ask when the running agent is of a version that
// does not know the question.
var errNotKnown = errors.New("the running agent is older than this command and does not know it: restart it with this version")

// How long the agent may take to answer a question, and how often a person who
// waits for it to act is told so.
const (
	answerWithin = time.Minute
	stillWaiting = 10 * time.Second
)

// ask puts a question to the running agent.
func (c *cli) ask(ctx context.Context, method, path string, answer any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, fmt.Errorf("no answer within %s: see its log", answerWithin))
	defer cancel()
	return c.request(ctx, method, path, nil, answer)
}

// submit is ask about a document.
func (c *cli) submit(ctx context.Context, path string, document []byte, answer any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, fmt.Errorf("no answer within %s: see its log", answerWithin))
	defer cancel()
	return c.request(ctx, "POST", path, document, answer)
}

// act has the running agent do something, which takes as long as it takes:
// the agent goes on with it whether somebody waits here or not.
func (c *cli) act(ctx context.Context, path string, answer any) error {
	began, done := time.Now(), make(chan struct{})
	var told supervise.Group
	told.Go("still waiting", func() {
		tick := time.NewTicker(stillWaiting)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(c.err, "agent: the running agent is at work on it, %s so far; it goes on whether this waits or not\n", age(began))
			case <-done:
				return
			}
		}
	})
	err := c.request(ctx, "POST", path, nil, answer)
	close(done)
	told.Wait()
	return err
}

func (c *cli) request(ctx context.Context, method, path string, body []byte, answer any) error {
	listener := &peer{}
	ctx, answered := c.watched(ctx, listener)
	defer answered()
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.client(listener).Do(req)
	switch {
	case errors.Is(err, errStopped):
		return c.hung(listener)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return errNobody
	case method == "GET" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)):
		return errNobody // it ended just now
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("ask the agent: %w (run as its user, or as root)", inner(err))
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("ask the agent: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("ask the agent: %w", inner(err))
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed: // by the server itself: no page of ours answers so
		return errNotKnown
	default:
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return fmt.Errorf("ask the agent: %w", err)
		}
		said := strings.TrimSpace(string(b))
		if resp.StatusCode == http.StatusConflict {
			return fmt.Errorf("the agent says: %w", &agent.DamagedError{Text: said})
		}
		return fmt.Errorf("the agent says: %s", said)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// inner is an error of a request without its URL, which says nothing here.
func inner(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// offline is what a command looks at when no agent runs.
type offline struct {
	view     agent.View
	snapshot *journal.Snapshot
	close    func() error
}

// openOffline reads the journal and opens the host for reading. A journal that
// is not there is empty.
func (c *cli) openOffline(ctx context.Context) (*offline, error) {
	if err := agent.CheckPath(c.options.StateDir); err != nil {
		return nil, usage(fmt.Errorf("--state-dir %s: %w", c.options.StateDir, err))
	}
	snapshot, err := c.read("")
	if err != nil {
		return nil, err
	}
	h, closeHost, err := c.options.OpenHost()
	if err != nil {
		return nil, err
	}
	view, err := c.view(ctx, h, snapshot.Records)
	if err != nil {
		return nil, errors.Join(err, closeHost())
	}
	return &offline{view: view, snapshot: snapshot, close: closeHost}, nil
}

func (c *cli) view(ctx context.Context, h host.Host, records *journal.Records) (agent.View, error) {
	bootID, err := host.BootID(ctx, h)
	if err != nil {
		return agent.View{}, err
	}
	h = host.Attentive(h)
	allocated := c.options.Allocated(h)
	v := agent.View{
		Records: records, Drivers: all.New(h), Host: h, BootID: bootID, MachineID: host.MachineID(ctx, h),
		NoIOMMU: c.options.NoIOMMU, MaxAttempts: agent.DefaultMaxAttempts, PluginFile: c.options.PluginFile,
		Allocated: allocated,
	}
	v.Rules = guard.Options{
		Own: c.options.NodeAddresses, Reach: c.options.KeepReachable,
		WithoutDefault: c.options.WithoutDefault, Allocated: allocated,
	}
	v.Guard = v.NewGuard(v.Rules)
	return v, nil
}

// elsewhere is the view of a journal copied from another machine.
func elsewhere(s *journal.Snapshot) agent.View {
	return agent.View{
		Records: s.Records, Drivers: drivers.Set{Specs: all.Specs()},
		BootID: s.Manifest().BootID, MachineID: s.Meta().MachineID, MaxAttempts: agent.DefaultMaxAttempts,
	}
}
