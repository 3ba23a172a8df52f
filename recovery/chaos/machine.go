//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"eniagent/recovery/chaos/wire"
)

// machine is one power-on of a VM: a QEMU process and the channels into it. It is never used again after its end.
type machine struct {
	console *console
	conn    net.Conn
	qmp     *qmp
	cmd     *exec.Cmd
	exited  chan struct{} // closed when QEMU is reaped
	hello   chan wire.Hello
	began   time.Time

	send sync.Mutex // orders requests on conn

	mu      sync.Mutex // guards what follows
	next    uint64
	pending map[uint64]func(wire.Reply, error)
	down    error
}

// power starts QEMU. Its three channels are socket pairs it inherits: no names, nothing to clean up, and an end of
// file the moment it dies. It inherits the files too.
func power(qemu string, args []string, log *console, files ...*os.File) (*machine, error) {
	m := &machine{
		console: log,
		exited:  make(chan struct{}),
		hello:   make(chan wire.Hello, 1),
		began:   time.Now(),
		pending: map[uint64]func(wire.Reply, error){},
	}
	var theirs []*os.File
	var ours [3]net.Conn
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	for i := range ours {
		conn, file, err := pair()
		if err != nil {
			return nil, fmt.Errorf("make a channel to QEMU: %w", err)
		}
		ours[i], theirs = conn, append(theirs, file)
	}
	m.conn = ours[1]
	// It outlives the call that starts it, and that call's context.
	m.cmd = exec.CommandContext(context.Background(), qemu, append(channelArgs(), args...)...)
	m.cmd.ExtraFiles = append(slices.Clone(theirs), files...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	// In a session of its own QEMU does not see the terminal's signals: it ends when the rig ends it, or with it.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error, 1)
	go m.own(started)
	if err := <-started; err != nil {
		for _, c := range ours {
			_ = c.Close()
		}
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	go copyConsole(log, ours[0])
	m.qmp = newQMP(ours[2])
	go m.read()
	return m, nil
}

// own starts QEMU and reaps it. Pdeathsig fires when the thread that forked ends, not the process, so the thread is
// kept for as long as QEMU runs.
func (m *machine) own(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := m.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	_ = m.cmd.Wait()
	_ = m.conn.Close()
	close(m.exited)
}

func pair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(fds[0]), "rig")
	theirs := os.NewFile(uintptr(fds[1]), "qemu")
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

func copyConsole(to *console, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		_, _ = to.Write(buf[:n])
		if err != nil {
			_ = from.Close()
			return
		}
	}
}

// read hands replies to who asked, until the guest's side ends; then everybody learns that it is down.
func (m *machine) read() {
	in := json.NewDecoder(m.conn)
	for {
		var r wire.Reply
		if err := in.Decode(&r); err != nil {
			break
		}
		if r.Hello != nil {
			select {
			case m.hello <- *r.Hello:
			default:
			}
			continue
		}
		m.mu.Lock()
		f := m.pending[r.ID]
		if r.Done {
			delete(m.pending, r.ID)
		}
		m.mu.Unlock()
		if f != nil {
			f(r, nil)
		}
	}
	m.mu.Lock()
	m.down = ErrDown
	left := m.pending
	m.pending = nil
	m.mu.Unlock()
	for _, f := range left {
		f(wire.Reply{Done: true}, ErrDown)
	}
}

// ask sends a request; reply is called for each answer, from one goroutine, and must not block. An error given to
// it means that the guest has gone.
func (m *machine) ask(r wire.Request, reply func(wire.Reply, error)) (uint64, error) {
	m.mu.Lock()
	if m.down != nil {
		m.mu.Unlock()
		return 0, m.down
	}
	m.next++
	r.ID = m.next
	m.pending[r.ID] = reply
	m.mu.Unlock()

	raw, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("encode request: %w", err)
	}
	m.send.Lock()
	defer m.send.Unlock()
	if _, err := m.conn.Write(append(raw, '\n')); err != nil {
		m.mu.Lock()
		delete(m.pending, r.ID)
		m.mu.Unlock()
		return 0, fmt.Errorf("%w: send request: %w", ErrDown, err)
	}
	return r.ID, nil
}

// call is ask for one answer.
func (m *machine) call(ctx context.Context, r wire.Request) (wire.Reply, error) {
	type answer struct {
		r   wire.Reply
		err error
	}
	c := make(chan answer, 1)
	id, err := m.ask(r, func(r wire.Reply, err error) { c <- answer{r, err} })
	if err != nil {
		return wire.Reply{}, err
	}
	select {
	case a := <-c:
		return a.r, a.err
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.pending, id)
		m.mu.Unlock()
		return wire.Reply{}, context.Cause(ctx)
	}
}

// kill is the power cut: QEMU has no chance to write anything.
func (m *machine) kill() {
	// It may have exited already.
	_ = m.cmd.Process.Kill()
	<-m.exited
}
