package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"eniagent/agent/source/file"
)

// server is one listener and what it serves.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
}

func (s *server) serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// shutdown gives requests under way a moment; an actor group has no patience
// of its own.
func (s *server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close() // the listener goes with the process
	}
}

// listen opens the public address and the root-only socket.
func (o Options) listen(ctx context.Context, a *Agent, reg *prometheus.Registry, logger log.Logger) ([]*server, error) {
	var servers []*server
	add := func(name string, l net.Listener, h http.Handler, s *http.Server) {
		s.Handler, s.ReadHeaderTimeout, s.IdleTimeout = recovered(h, logger), headerTimeout, idleTimeout
		servers = append(servers, &server{name, l, s})
	}
	if o.Listen != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for health and metrics: %w: choose another --listen", err)
		}
		add("http", newCrowd(l, maxClients, 0), a.publicHandler(reg), &http.Server{
			ReadTimeout: headerTimeout, WriteTimeout: answerTimeout, MaxHeaderBytes: maxHeader,
		})
	}
	l, err := listenSocket(ctx, o.SocketPath())
	if err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.listener.Close())
		}
		return nil, err
	}
	// An answer may take minutes to make, and its request would end at a ReadTimeout
	// (net/http, connReader.backgroundRead), so that a part of it has one here.
	add("socket", newCrowd(l, maxClients, stallTimeout), a.socketHandler(), &http.Server{MaxHeaderBytes: maxOrder})
	return servers, nil
}

// recovered answers a panic of a handler with an error, and logs it as
// everything else is logged. It is one request's end, not the agent's.
func recovered(h http.Handler, logger log.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				level.Error(logger).Log("component", "http", "path", r.URL.Path, "err", fmt.Sprintf("panic: %v\n%s", p, debug.Stack()), "msg", "request failed")
				http.Error(w, "internal error, see the log", http.StatusInternalServerError)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// listenSocket replaces a socket that a killed agent left: whoever holds the
// journal is the only agent here.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace control socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("protect control socket: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

func (a *Agent) publicHandler(reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	probe := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("GET /healthz", probe(a.Healthy))
	mux.HandleFunc("GET /readyz", probe(a.Ready))
	mux.Handle("GET /metrics", scrape(promhttp.HandlerFor(reg, promhttp.HandlerOpts{})))
	return mux
}

// statusOf is the HTTP status of an answer that is an error. The commands tell a damaged
// journal by it, which needs a person.
func statusOf(err error) int {
	if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

// statusAsked is the status, with fresh=5s that of what the source asks now.
func (a *Agent) statusAsked(r *http.Request) (any, error) {
	if !r.URL.Query().Has("fresh") {
		return a.Status(r.Context()), nil
	}
	patience, err := time.ParseDuration(r.URL.Query().Get("fresh"))
	if err != nil {
		return nil, fmt.Errorf("fresh: %w: want a duration such as 5s", err)
	}
	return a.FreshStatus(r.Context(), patience), nil
}

// socketHandler answers the commands of this machine's root.
func (a *Agent) socketHandler() http.Handler {
	mux := http.NewServeMux()
	answer := func(fn func(*http.Request) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			v, err := fn(r)
			a.debugAsked(r, began, err)
			if err != nil {
				http.Error(w, err.Error(), statusOf(err))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			// A client that went away is nobody's error.
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.HandleFunc("GET /status", answer(a.statusAsked))
	mux.HandleFunc("GET /plan", answer(func(r *http.Request) (any, error) { return a.Plan(r.Context()), nil }))
	mux.HandleFunc("POST /plan", answer(func(r *http.Request) (any, error) {
		data, err := io.ReadAll(io.LimitReader(r.Body, file.MaxSize+1)) // one more than is legal, which Parse refuses
		if err != nil {
			return nil, fmt.Errorf("read desired state: %w", err)
		}
		return a.PlanOf(r.Context(), r.URL.Query().Get("object"), data)
	}))
	mux.HandleFunc("GET /recover", answer(func(r *http.Request) (any, error) { return a.Recover(r.Context(), true), nil }))
	mux.HandleFunc("POST /recover", answer(func(r *http.Request) (any, error) {
		return a.Recover(context.WithoutCancel(r.Context()), false), nil
	}))
	for path, fn := range map[string]func(context.Context, Order) (OrderReport, error){
		"/release": a.Release, "/pause": a.Pause, "/resume": a.Resume,
	} {
		mux.HandleFunc("POST "+path, answer(func(r *http.Request) (any, error) {
			return fn(context.WithoutCancel(r.Context()), orderOf(r.URL.Query()))
		}))
	}
	mux.HandleFunc("POST /operations/{id}/resolve", answer(func(r *http.Request) (any, error) {
		q, err := resolutionOf(r.PathValue("id"), r.URL.Query())
		if err != nil {
			return nil, err
		}
		return a.Resolve(context.WithoutCancel(r.Context()), q)
	}))
	mux.HandleFunc("POST /retry", answer(func(r *http.Request) (any, error) {
		n, err := a.Retry(r.Context(), r.URL.Query().Get("target"))
		return map[string]int{"cleared": n}, err
	}))
	mux.HandleFunc("POST /acknowledge", answer(func(r *http.Request) (any, error) {
		return struct{}{}, a.Acknowledge(r.Context(), r.URL.Query().Get("who"), r.URL.Query().Get("why"))
	}))
	mux.HandleFunc("POST /plugin-restarted", answer(func(r *http.Request) (any, error) {
		number, err := strconv.ParseUint(r.URL.Query().Get("number"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("number: %w", err)
		}
		return a.PluginRestarted(r.Context(), number, r.URL.Query().Get("who"))
	}))
	mux.HandleFunc("GET /operations", answer(func(r *http.Request) (any, error) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			return nil, fmt.Errorf("n: %w", err)
		}
		return a.view.Operations(n), nil
	}))
	mux.HandleFunc("GET /operations/{id}", answer(func(r *http.Request) (any, error) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("operation number: %w", err)
		}
		return a.view.Operation(id)
	}))
	return mux
}
