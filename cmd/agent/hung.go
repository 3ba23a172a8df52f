package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"eniagent/supervise"
)

// An agent that has not answered for askAliveAfter is asked whether it answers at
// all, and has answerAlive for that: whoever asked is told within 2 s how to look
// without it.
const (
	askAliveAfter = time.Second
	answerAlive   = 800 * time.Millisecond
)

// errStopped is of an agent that a signal or a debugger has stopped: it answers
// nothing until it is let go on.
var errStopped = errors.New("is stopped")

// peer is the process that listens on the control socket.
type peer struct {
	mu  sync.Mutex
	pid int32 // 0 while it is not known, or in another PID namespace
}

// dial connects, and notes who listens. It refuses an agent that is stopped
// before anything was asked of it: the question would be carried out by it much
// later.
func (p *peer) dial(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	pid := listener(conn)
	p.mu.Lock()
	p.pid = pid
	p.mu.Unlock()
	if stopped(pid) {
		return nil, errors.Join(errStopped, conn.Close())
	}
	return conn, nil
}

func (p *peer) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return "the agent"
	}
	return fmt.Sprintf("the agent, process %d,", p.pid)
}

func (p *peer) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return stopped(p.pid)
}

// listener is the process at the other end of a Unix socket, SO_PEERCRED of
// unix(7); 0 when that cannot be told.
func listener(conn net.Conn) int32 {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := int32(0)
	_ = raw.Control(func(fd uintptr) { // a closed connection has no peer to tell of
		if c, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = c.Pid
		}
	})
	return pid
}

// stopped says whether a process is stopped, by a signal or a tracer: state T or
// t in proc_pid_stat(5). The command's name in front may have anything in it.
func stopped(pid int32) bool {
	if pid <= 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	text := string(b)
	state := strings.TrimSpace(text[strings.LastIndexByte(text, ')')+1:])
	return strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t")
}

// watched is ctx for a question to the agent. It ends when the agent is found to
// be stopped. One that answers nothing at all is said to hang, once, and waited
// for: on a busy machine it may only be late.
func (c *cli) watched(ctx context.Context, p *peer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var told supervise.Group
	told.Go("is it alive", func() {
		select {
		case <-time.After(askAliveAfter):
		case <-ctx.Done():
			return
		}
		alive := !p.stopped() && c.alive(ctx)
		switch {
		case alive || ctx.Err() != nil:
		case p.stopped():
			cancel(c.hung(p))
		default:
			fmt.Fprintf(c.err, "agent: %s answers nothing on %s, and is waited for. %s\n", p, c.options.SocketPath(), c.without())
		}
	})
	return ctx, func() {
		cancel(nil)
		told.Wait()
	}
}

// alive says whether the agent answers anything, if only that it has no such
// page, which costs it nothing.
func (c *cli) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerAlive)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://agent/", nil)
	if err != nil {
		return false
	}
	resp, err := c.client(&peer{}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// client speaks HTTP to the agent's socket.
func (c *cli) client(p *peer) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.dial(ctx, c.options.SocketPath())
		},
	}}
}

// hung is the error about an agent that is stopped.
func (c *cli) hung(p *peer) error {
	return fmt.Errorf("%s %w and answers nothing on %s: let it go on (kill -CONT), or end it (kill -KILL) and start it again. %s",
		p, errStopped, c.options.SocketPath(), c.without())
}

// without says how to look at what is unfinished while the agent answers nothing.
// It holds the journal, so that only a copy can be read.
func (c *cli) without() string {
	return fmt.Sprintf("To look without it: cp %s /tmp/copy.db && agent recover --dry-run --journal /tmp/copy.db", c.journalPath(""))
}
