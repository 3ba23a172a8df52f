package kube

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
)

// gate is the API to one agent: it passes everything on, and notes what was asked
// and what was refused. An older one does not send all objects on a watch, so that
// they are listed.
type gate struct {
	*recorder
	kubeconfig []byte

	mu      sync.Mutex
	times   map[act]int
	refused sets.Set[act]
}

// newGate is one that asks with a token.
func newGate(t *testing.T, c *cluster, token string, older bool) *gate {
	t.Helper()
	r, _ := record(c.env.Config)
	g := &gate{recorder: r, times: map[act]int{}, refused: sets.New[act]()}
	to, err := url.Parse("https://" + hostOf(c.env.Config))
	must(t, err)
	onward, err := rest.TransportFor(rest.AnonymousClientConfig(c.env.Config))
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(q *httputil.ProxyRequest) { q.SetURL(to) },
		Transport:      onward,
		FlushInterval:  -1, // a watch is told as it happens
		ModifyResponse: g.answered,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		g.note(q)
		if older && q.URL.Query().Has("sendInitialEvents") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,`+
				`"message":"sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"}`)
			return
		}
		proxy.ServeHTTP(w, q)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	g.kubeconfig = fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: agent
contexts:
- {name: agent, context: {cluster: gate, user: agent}}
users:
- {name: agent, user: {token: %s}}
clusters:
- name: gate
  cluster:
    certificate-authority-data: %s
    server: %s
`, token, base64.StdEncoding.EncodeToString(ca), server.URL)
	return g
}

// answered notes a request that the API has answered.
func (g *gate) answered(r *http.Response) error {
	info, err := g.infos.NewRequestInfo(r.Request)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.times[actOf(info)]++; r.StatusCode == http.StatusForbidden {
		g.refused.Insert(actOf(info))
	}
	return nil
}

// denied are the acts that the API refused so far.
func (g *gate) denied() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return acts(g.refused)
}

// count is how often something was asked.
func (g *gate) count(a act) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.times[a]
}

// hostOf is where the API of a configuration is.
func hostOf(c *rest.Config) string {
	return strings.TrimPrefix(c.Host, "https://")
}
