//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
)

// qmp is QEMU's own control channel: one JSON object a line, answered by id, with events in between.
type qmp struct {
	mu      sync.Mutex // guards what follows
	conn    net.Conn
	next    int
	pending map[int]chan qmpMessage
	gone    map[string]chan struct{} // by device: closed on DEVICE_DELETED
	down    chan struct{}
}

type qmpMessage struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
}

func newQMP(conn net.Conn) *qmp {
	q := &qmp{conn: conn, pending: map[int]chan qmpMessage{}, gone: map[string]chan struct{}{}, down: make(chan struct{})}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.down)
	in := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		if err := in.Decode(&m); err != nil {
			return
		}
		q.mu.Lock()
		if m.Event == "DEVICE_DELETED" && q.gone[m.Data.Device] != nil {
			close(q.gone[m.Data.Device])
			delete(q.gone, m.Data.Device)
		}
		if c := q.pending[m.ID]; c != nil && m.Event == "" {
			c <- m
			delete(q.pending, m.ID)
		}
		q.mu.Unlock()
	}
}

func (q *qmp) do(ctx context.Context, command string, args map[string]any) error {
	answer := make(chan qmpMessage, 1)
	if args == nil {
		args = map[string]any{} // null is not an object to QEMU
	}
	q.mu.Lock()
	q.next++ // the greeting has no id, which reads as 0: begin at 1
	id := q.next
	q.pending[id] = answer
	err := json.NewEncoder(q.conn).Encode(map[string]any{"execute": command, "arguments": args, "id": id})
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("tell QEMU to %s: %w", command, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("tell QEMU to %s: %s: %s", command, m.Error.Class, m.Error.Desc)
		}
		return nil
	case <-q.down:
		return fmt.Errorf("tell QEMU to %s: %w", command, ErrDown)
	case <-ctx.Done():
		return fmt.Errorf("tell QEMU to %s: %w", command, context.Cause(ctx))
	}
}

// remove asks the guest to give a device up and waits until it has. Asked before the event can come, so that it is
// not missed.
func (q *qmp) remove(ctx context.Context, device string) error {
	q.mu.Lock()
	gone := q.gone[device]
	if gone == nil {
		gone = make(chan struct{})
		q.gone[device] = gone
	}
	q.mu.Unlock()
	if err := q.do(ctx, "device_del", map[string]any{"id": device}); err != nil {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-q.down:
		return fmt.Errorf("wait until the guest gives up %s: %w", device, ErrDown)
	case <-ctx.Done():
		return fmt.Errorf("wait until the guest gives up %s: %w", device, context.Cause(ctx))
	}
}
