package agent

import (
	"bytes"
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Whoever can connect may be as slow, as many and as greedy as they like: what a connection
// costs is bounded, and how many there are. A request has no body.
const (
	headerTimeout = 5 * time.Second
	answerTimeout = 10 * time.Second // for all of an answer that is known at once
	stallTimeout  = 30 * time.Second // for a part of one that takes its time to make
	idleTimeout   = 30 * time.Second
	maxHeader     = 16 << 10
	maxOrder      = 256 << 10 // of an order that names all functions of a node
	maxClients    = 64        // connections at once, of each listener
	sendBuffer    = 32 << 10  // bytes of an answer that the kernel keeps for a client
	scrapeWait    = 5 * time.Second
)

// crowd is a listener with a bound on its connections. One more than that costs the oldest
// its own: netutil.LimitListener would leave the newest waiting, and with it the probes of
// the kubelet, for as long as somebody holds all.
type crowd struct {
	net.Listener
	max   int
	stall time.Duration // for each write; 0 leaves that to the server

	mu   sync.Mutex
	held *list.List // of *member, the oldest first
}

func newCrowd(l net.Listener, n int, stall time.Duration) *crowd {
	return &crowd{Listener: l, max: n, stall: stall, held: list.New()}
}

// Accept takes the next connection.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if b, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = b.SetWriteBuffer(sendBuffer) // it only costs more
	}
	m := &member{Conn: conn, of: c}
	c.mu.Lock()
	m.at = c.held.PushBack(m)
	var oldest *member
	if c.held.Len() > c.max {
		oldest = c.held.Remove(c.held.Front()).(*member)
		oldest.at = nil
	}
	c.mu.Unlock()
	if oldest != nil {
		oldest.drop()
	}
	return m, nil
}

// member is a connection of a crowd.
type member struct {
	net.Conn
	of *crowd
	at *list.Element // guarded by the crowd; nil once it is not held
}

// Write writes within the time that a client has to take it.
func (m *member) Write(b []byte) (int, error) {
	if m.of.stall > 0 {
		if err := m.SetWriteDeadline(time.Now().Add(m.of.stall)); err != nil {
			return 0, err
		}
	}
	return m.Conn.Write(b)
}

// Close gives its place away.
func (m *member) Close() error {
	m.of.mu.Lock()
	if m.at != nil {
		m.of.held.Remove(m.at)
		m.at = nil
	}
	m.of.mu.Unlock()
	return m.Conn.Close()
}

// drop closes it at once, with what the kernel still has to send.
func (m *member) drop() {
	if tcp, ok := m.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = m.Conn.Close() // its server notices
}

// scrape makes one answer at a time, whole, and only then begins to send it: a client that
// is slow to take it holds up nobody else, and no more memory than its answer.
func scrape(h http.Handler) http.Handler {
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), scrapeWait)
		defer cancel()
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many ask for metrics", http.StatusServiceUnavailable)
			return
		}
		a := answerOf(h, r, turn)
		for name, values := range a.header {
			w.Header()[name] = values
		}
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body.Bytes()) // a client that went away is nobody's error
	})
}

// whole is an answer that is kept until it is complete.
type whole struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func answerOf(h http.Handler, r *http.Request, turn <-chan struct{}) *whole {
	defer func() { <-turn }()
	a := &whole{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(a, r)
	return a
}

// Header is http.ResponseWriter's.
func (a *whole) Header() http.Header { return a.header }

// WriteHeader is http.ResponseWriter's.
func (a *whole) WriteHeader(status int) { a.status = status }

// Write is http.ResponseWriter's.
func (a *whole) Write(b []byte) (int, error) { return a.body.Write(b) }
