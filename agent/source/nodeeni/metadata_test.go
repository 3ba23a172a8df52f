package nodeeni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// emulator answers as the metadata service of an instance does, or as a broken
// one would.
type emulator struct {
	mu     sync.Mutex
	enis   map[string]string // by MAC address
	tokens int               // given out; only the last is valid
	asked  []string
	answer func(w http.ResponseWriter, r *http.Request) bool // instead of the service; true when it did
}

func startEmulator(t *testing.T, enis map[string]string) (*emulator, *metadata) {
	t.Helper()
	e := &emulator{enis: enis}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	m, err := newMetadata(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return e, m
}

func (e *emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, r.Method+" "+r.URL.Path)
	if e.answer != nil && e.answer(w, r) {
		return
	}
	if r.URL.Path == "/latest/api/token" {
		if r.Method != http.MethodPut || r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		e.tokens++
		fmt.Fprint(w, e.token())
		return
	}
	if r.Header.Get("X-Aws-Ec2-Metadata-Token") != e.token() {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	e.tell(w, r.URL.Path)
}

func (e *emulator) token() string { return fmt.Sprintf("token-%d==", e.tokens) }

func (e *emulator) tell(w http.ResponseWriter, path string) {
	rest, ok := strings.CutPrefix(path, macsPath)
	if ok && rest == "" {
		for mac := range maps.Keys(e.enis) {
			fmt.Fprintln(w, mac+"/")
		}
		return
	}
	mac, ok := strings.CutSuffix(rest, "/interface-id")
	if eni := e.enis[mac]; ok && eni != "" {
		fmt.Fprint(w, eni)
		return
	}
	http.NotFound(w, nil)
}

const (
	mac1, eni1 = "0e:49:61:0f:c3:11", "eni-0123456789abcdef0"
	mac2, eni2 = "0e:49:61:0f:c3:12", "eni-00000000000000002"
	mac3, eni3 = "0e:49:61:0f:c3:13", "eni-00000000000000003"
)

func TestMetadata(t *testing.T) {
	e, m := startEmulator(t, map[string]string{mac1: eni1, mac2: eni2})
	want := map[string][]string{eni1: {mac1}, eni2: {mac2}}
	for range 2 {
		got, err := m.macs(t.Context())
		if err != nil || !cmp.Equal(got, want) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if e.tokens != 1 {
		t.Errorf("%d tokens were asked for, want one for both", e.tokens)
	}
	e.mu.Lock()
	e.tokens++ // the one that is used has run out
	e.mu.Unlock()
	if got, err := m.macs(t.Context()); err != nil || !cmp.Equal(got, want) {
		t.Errorf("after the token ran out: got %v, %v", got, err)
	}
}

func TestMetadataGoneWrong(t *testing.T) {
	status := func(method, suffix string, code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || !strings.HasSuffix(r.URL.Path, suffix) {
				return false
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			return true
		}
	}
	says := func(suffix, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, suffix) {
				return false
			}
			fmt.Fprint(w, text)
			return true
		}
	}
	both := map[string][]string{eni1: {mac1}, eni2: {mac2}}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		err    string
		want   map[string][]string
	}{
		{"version 1 only", status(http.MethodPut, "", http.StatusForbidden), "get a token: it answers 403 Forbidden", nil},
		{"switched off", status(http.MethodPut, "", http.StatusNotFound), "get a token: it answers 404 Not Found", nil},
		{"no token is good enough", status(http.MethodGet, "", http.StatusUnauthorized), "the token is refused", nil},
		{"sent elsewhere", status(http.MethodGet, "macs/", http.StatusFound), "it answers 302 Found", nil},
		{"overloaded", status(http.MethodGet, "macs/", http.StatusServiceUnavailable), "it answers 503", nil},
		{"an empty token", says("/token", ""), `get a token: the answer is ""`, nil},
		{"a token that is a page", says("/token", "<html>\r\nX: y"), "get a token: the answer is", nil},
		{"an endless list", says("macs/", strings.Repeat("x", maxAnswer+1)), "longer than 65536 bytes", nil},
		{"a long list", says("macs/", strings.Repeat(mac1+"/\n", maxMACs+1)), "1025 lines", nil},
		{"a page for a list", says("macs/", "<html>"), `the answer has "<html>", which is no MAC address`, map[string][]string{}},
		{"a group's address", says("macs/", "ff:ff:ff:ff:ff:ff/\n"), "no MAC address of an interface", map[string][]string{}},
		{"a list that leads elsewhere", says("macs/", "../../../../x"), "no MAC address", map[string][]string{}},
		{"an ENI that is none", says(mac3+"/interface-id", "☃\x00"), `of 0e:49:61:0f:c3:13: the answer is "\u2603\x00"`, both},
		{"an ENI that went", status(http.MethodGet, mac3+"/interface-id", http.StatusNotFound), "it answers 404", both},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			e, m := startEmulator(t, map[string]string{mac1: eni1, mac2: eni2, mac3: eni3})
			e.answer = tc.answer
			got, err := m.macs(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.err) || !cmp.Equal(got, tc.want) {
				t.Errorf("got %v, %v; want %v and an error with %q", got, err, tc.want, tc.err)
			}
		})
	}
}

// TestTheSameErrorSaysTheSame: each attempt comes from another port.
func TestTheSameErrorSaysTheSame(t *testing.T) {
	e, m := startEmulator(t, nil)
	e.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		c, _, err := http.NewResponseController(w).Hijack()
		if tcp, ok := c.(*net.TCPConn); err != nil || !ok || tcp.SetLinger(0) != nil || tcp.Close() != nil {
			t.Error("the connection was not reset")
		}
		return true
	}
	k := nodeENIs()
	for _, ask := range []func() error{
		func() error { _, err := m.macs(t.Context()); return err },
		func() error { _, err := http.Get(m.base); return k.explained(err) }, //nolint:bodyclose,noctx // there is none
	} {
		first, again := ask(), ask()
		if !errors.Is(first, syscall.ECONNRESET) || first.Error() != again.Error() {
			t.Errorf("%v, then %v", first, again)
		}
	}
}

func TestMetadataHasBoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetadata("http://hangs.example")
		if err != nil {
			t.Fatal(err)
		}
		m.client.Transport = hangs{}
		begun := time.Now()
		_, err = m.macs(t.Context())
		if took := time.Since(begun); err == nil || took != requestPatience {
			t.Errorf("a service that hangs: %v after %s, want %s", err, took, requestPatience)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.macs(ctx); err == nil {
			t.Error("a lookup that was called off is none")
		}
	})
}

// hangs is a connection on which no answer comes.
type hangs struct{}

func (hangs) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

func TestMetadataOfAnENITwice(t *testing.T) {
	_, m := startEmulator(t, map[string]string{mac1: eni1, mac2: eni1})
	got, err := m.macs(t.Context())
	if err != nil || len(got[eni1]) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestMetadataEndpoint(t *testing.T) {
	for _, base := range []string{"x", "http://", "ftp://169.254.169.254", "http://[::1"} {
		if _, err := newMetadata(base); err == nil {
			t.Errorf("%q is taken for an endpoint", base)
		}
	}
	if m, err := newMetadata(""); err != nil || m.base != DefaultMetadata {
		t.Errorf("without an endpoint: %v", err)
	}
}
