package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
)

func mustListen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustDial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestTheNewestConnectionIsAnswered: somebody holds more connections than there may be, and
// who comes then is answered, each time, while the oldest are closed.
func TestTheNewestConnectionIsAnswered(t *testing.T) {
	const most = 4
	crowd := newCrowd(mustListen(t), most, 0)
	s := &http.Server{ReadHeaderTimeout: time.Hour, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })}
	go func() { _ = s.Serve(crowd) }()
	defer func() { _ = s.Close() }()
	var held []net.Conn
	for range 5 * most {
		held = append(held, mustDial(t, crowd))
	}
	for range 3 {
		c := mustDial(t, crowd)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("it is answered %q, %v", line, err)
		}
		held = append(held, c)
	}
	for i, c := range held[:len(held)-most] {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d of %d is not closed: %v", i, len(held), err)
		}
	}
	crowd.mu.Lock()
	defer crowd.mu.Unlock()
	if n := crowd.held.Len(); n > most {
		t.Errorf("%d connections are held", n)
	}
}

// TestAClosedConnectionGivesItsPlaceAway, once.
func TestAClosedConnectionGivesItsPlaceAway(t *testing.T) {
	crowd := newCrowd(mustListen(t), 2, 0)
	defer func() { _ = crowd.Close() }()
	for range 3 {
		client := mustDial(t, crowd)
		c, err := crowd.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Close(), c.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client sees %v", err)
		}
	}
	if n := crowd.held.Len(); n != 0 {
		t.Errorf("%d are held", n)
	}
}

// TestAClientThatTakesNothing of an answer on the control socket ends that answer alone.
func TestAClientThatTakesNothing(t *testing.T) {
	l, err := listenSocket(t.Context(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	crowd := newCrowd(l, 2, time.Millisecond)
	ended := make(chan error, 1)
	s := &http.Server{ReadHeaderTimeout: time.Hour, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				ended <- err
				return
			}
		}
	})}
	go func() { _ = s.Serve(crowd) }()
	defer func() { _ = s.Close() }()
	fmt.Fprint(mustDial(t, crowd), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the answer ended with %v", err)
	}
}

// stuck is a client that takes nothing of its answer until it is let go on.
type stuck struct {
	httptest.ResponseRecorder
	writing, goOn chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	s.writing <- struct{}{}
	<-s.goOn
	return s.ResponseRecorder.Write(b)
}

// making counts the answers that are being made, by a handler that needs them to be taken.
func making(now *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now.Add(1)
		defer now.Add(-1)
		w.Header().Set("X-Made", "yes")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("metrics"))
	})
}

// held is how many answers are being made while clients take nothing.
func held(t *testing.T, wrap func(http.Handler) http.Handler) int32 {
	t.Helper()
	const clients = 8
	var now atomic.Int32
	h := wrap(making(&now))
	writing, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var all []*stuck
	for range clients {
		s := &stuck{*httptest.NewRecorder(), writing, goOn}
		all = append(all, s)
		go func() {
			h.ServeHTTP(s, httptest.NewRequestWithContext(context.Background(), "GET", "/metrics", nil))
			done <- struct{}{}
		}()
	}
	for range clients { // all have got as far as their client lets them
		<-writing
	}
	n := now.Load()
	close(goOn)
	for range clients {
		<-done
	}
	for _, s := range all {
		if s.Code != http.StatusAccepted || s.Header().Get("X-Made") != "yes" || s.Body.String() != "metrics" {
			t.Errorf("the answer is %d %v %q", s.Code, s.Header(), s.Body)
		}
	}
	return n
}

// TestASlowClientHoldsNoScrape: what makes the metrics has ended before any of it is sent.
func TestASlowClientHoldsNoScrape(t *testing.T) {
	if n := held(t, scrape); n != 0 {
		t.Errorf("%d answers are being made for clients that take nothing", n)
	}
}

// TestBrokenScrapeIsHeldBySlowClients: the check above sees a handler that sends as it goes.
func TestBrokenScrapeIsHeldBySlowClients(t *testing.T) {
	if n := held(t, func(h http.Handler) http.Handler { return h }); n == 0 {
		t.Error("none is")
	}
}

// TestTheServersAreBounded: no listener of the agent is without a bound on connections, and
// on the time that each part of a request may take.
func TestTheServersAreBounded(t *testing.T) {
	o := DefaultOptions()
	o.Listen, o.StateDir = "127.0.0.1:0", t.TempDir()
	servers, err := o.listen(t.Context(), &Agent{}, prometheus.NewRegistry(), log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		crowd, bounded := s.listener.(*crowd)
		if !bounded || crowd.max <= 0 {
			t.Errorf("%s: as many connections as somebody makes", s.name)
			continue
		}
		h := s.http
		if h.ReadHeaderTimeout <= 0 || h.IdleTimeout <= 0 || h.MaxHeaderBytes <= 0 || h.WriteTimeout <= 0 && crowd.stall <= 0 {
			t.Errorf("%s has %+v, and %s for a write", s.name, h, crowd.stall)
		}
		if s.name == "http" && h.ReadTimeout <= 0 {
			t.Errorf("%s has no limit for reading a request", s.name)
		}
		_ = s.listener.Close()
	}
	if len(servers) != 2 {
		t.Errorf("%d servers", len(servers))
	}
}
