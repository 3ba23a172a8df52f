package kube

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// line is the network between a source and the API: it can be cut, and it notes
// what is asked on it.
type line struct {
	listener net.Listener
	to       string

	mu     sync.Mutex
	down   bool
	open   map[net.Conn]bool
	asked  []string // "list nodeenis", "watch nodes", "watch all nodeenis"
	expire bool     // the next watch of NodeENIs is told that its place is no longer known
}

// newLine gives a configuration that goes over a line of its own.
func newLine(t *testing.T, config *rest.Config) (*line, *rest.Config) {
	t.Helper()
	host := strings.TrimPrefix(config.Host, "https://")
	u, err := url.Parse("https://" + host)
	must(t, err)
	l := newWire(t, u.Host)
	config = rest.CopyConfig(config)
	config.Host = "https://" + l.listener.Addr().String()
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &tap{l, rt} })
	return l, config
}

// newWire is a line to an address.
func newWire(t testing.TB, to string) *line {
	t.Helper()
	l := &line{to: to, open: map[net.Conn]bool{}}
	var err error
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.listener.Close()
		l.cut()
	})
	go l.serve()
	return l
}

func (l *line) serve() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.to)
		if err != nil || !l.join(in, out) {
			_ = in.Close()
			if err == nil {
				_ = out.Close()
			}
			continue
		}
		go l.carry(in, out)
		go l.carry(out, in)
	}
}

func (l *line) join(both ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range both {
		l.open[c] = true
	}
	return !l.down
}

func (l *line) carry(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = from.Close()
	_ = to.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, from)
	delete(l.open, to)
}

// cut breaks what is on the line.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Close()
	}
}

// set lets nothing through, or all again.
func (l *line) set(down bool) {
	l.mu.Lock()
	l.down = down
	l.mu.Unlock()
	if down {
		l.cut()
	}
}

// count is how often something was asked.
func (l *line) count(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.asked {
		if a == what {
			n++
		}
	}
	return n
}

// lists is how often all NodeENIs were asked for.
func (l *line) lists() int {
	return l.count("list "+v1alpha1.Resource) + l.count("watch all "+v1alpha1.Resource)
}

// tap notes the requests on a line.
type tap struct {
	*line
	http.RoundTripper
}

// RoundTrip sends a request.
func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	what := "list"
	if q.Get("watch") != "" {
		what = "watch"
	}
	if q.Get("sendInitialEvents") == "true" {
		what = "watch all"
	}
	t.mu.Lock()
	of := path.Base(r.URL.Path)
	if r.Method != http.MethodGet {
		what = strings.ToLower(r.Method)
	}
	t.asked = append(t.asked, what+" "+of)
	expired := t.expire && what == "watch" && of == v1alpha1.Resource
	if expired {
		t.expire = false
	}
	t.mu.Unlock()
	if of == "nodes" && (q.Get("fieldSelector") != "metadata.name="+here || !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")) {
		return nil, errors.New("more of nodes is asked for than the metadata of this one")
	}
	if what == "watch" && q.Get("allowWatchBookmarks") != "true" {
		return nil, errors.New("a watch without bookmarks")
	}
	if what == "watch" && (q.Get("resourceVersion") == "" || q.Get("resourceVersion") == "0") {
		return nil, errors.New("a watch from nowhere")
	}
	if expired {
		const gone = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version","reason":"Expired","code":410}}`
		return &http.Response{
			Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/2.0", ProtoMajor: 2, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(gone + "\n")),
		}, nil
	}
	return t.RoundTripper.RoundTrip(r)
}

// instance answers as the metadata service of an instance with these ENIs.
func instance(enis map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const macs = "/latest/meta-data/network/interfaces/macs/"
		mac, ofOne := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, macs), "/interface-id")
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			fmt.Fprint(w, "token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == macs:
			for m := range enis {
				fmt.Fprintln(w, m+"/")
			}
		case ofOne && enis[mac] != "":
			fmt.Fprint(w, enis[mac])
		default:
			http.NotFound(w, r)
		}
	})
}
