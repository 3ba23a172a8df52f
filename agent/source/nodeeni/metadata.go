package nodeeni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// DefaultMetadata is where AWS has the metadata of an instance.
const DefaultMetadata = "http://169.254.169.254"

const (
	lookupPatience  = 10 * time.Second // for all of one lookup
	requestPatience = 2 * time.Second
	maxAnswer       = 64 << 10
	tokenLife       = 6 * time.Hour // the longest there is
	maxMACs         = 1024
)

// lookup asks for the MAC addresses of the instance's ENIs, by ENI.
type lookup func(ctx context.Context) (map[string][]string, error)

// metadata is the metadata service of the instance, version 2: each question
// carries a token.
type metadata struct {
	base   string
	client *http.Client

	mu    sync.Mutex // held while a lookup is under way
	token string
}

// CheckMetadata wants the URL of a metadata service.
func CheckMetadata(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("want a URL, such as " + DefaultMetadata)
	}
	return nil
}

func newMetadata(base string) (*metadata, error) {
	if base == "" {
		base = DefaultMetadata
	}
	if err := CheckMetadata(base); err != nil {
		return nil, fmt.Errorf("metadata endpoint %q: %w", base, err)
	}
	return &metadata{base: strings.TrimSuffix(base, "/"), client: &http.Client{
		// Nothing between this program and its own instance may answer for it.
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       requestPatience,
	}}, nil
}

const macsPath = "/latest/meta-data/network/interfaces/macs/"

// macs asks which MAC addresses each ENI of the instance has: one. What one
// answer lacks leaves the others; the error says it.
func (m *metadata) macs(ctx context.Context) (map[string][]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, lookupPatience, fmt.Errorf("no answer within %s", lookupPatience))
	defer cancel()
	listed, err := m.get(ctx, macsPath)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces in the instance metadata: %w", err)
	}
	lines := strings.Fields(listed)
	if len(lines) > maxMACs {
		return nil, fmt.Errorf("list the interfaces in the instance metadata: %d lines: want the MAC addresses of one instance", len(lines))
	}
	all := map[string][]string{}
	var first error
	for _, line := range lines {
		mac, eni, err := m.one(ctx, line)
		if err == nil {
			all[eni] = append(all[eni], mac)
		}
		first = cmp.Or(first, err)
		if ctx.Err() != nil {
			break
		}
	}
	return all, first
}

// one is the ENI of a line of the list.
func (m *metadata) one(ctx context.Context, line string) (mac, eni string, err error) {
	if mac, err = hardware(strings.TrimSuffix(line, "/")); err != nil {
		return "", "", fmt.Errorf("list the interfaces in the instance metadata: %w", err)
	}
	if eni, err = m.get(ctx, macsPath+mac+"/interface-id"); err != nil {
		return "", "", fmt.Errorf("ask the instance metadata for the ENI of %s: %w", mac, err)
	}
	eni = strings.TrimSpace(eni)
	if !eniID.MatchString(eni) {
		return "", "", fmt.Errorf("ask the instance metadata for the ENI of %s: the answer is %s", mac, shown(eni))
	}
	return mac, eni, nil
}

// hardware is a MAC address that one interface can have, as selectors have it.
func hardware(s string) (string, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
		return "", fmt.Errorf("the answer has %s, which is no MAC address of an interface", shown(s))
	}
	return mac.String(), nil
}

var errUnauthorized = errors.New("the token is refused")

// get asks with the token there is, and once more with a new one: the old may
// have run out.
func (m *metadata) get(ctx context.Context, path string) (string, error) {
	if m.token != "" {
		answer, err := m.ask(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", m.token)
		if !errors.Is(err, errUnauthorized) {
			return answer, err
		}
		m.token = ""
	}
	life := fmt.Sprintf("%d", int(tokenLife.Seconds()))
	token, err := m.ask(ctx, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", life)
	if err != nil {
		return "", fmt.Errorf("get a token: %w", err)
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("get a token: the answer is %s", shown(token))
	}
	m.token = token
	return m.ask(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", token)
}

func (m *metadata) ask(ctx context.Context, method, path, header, value string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, m.base+path, http.NoBody)
	if err != nil {
		return "", err
	}
	r.Header.Set(header, value)
	answer, err := m.client.Do(r)
	if err != nil {
		return "", retell(err)
	}
	defer func() { _ = answer.Body.Close() }() // only read from
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return "", errUnauthorized
	default:
		return "", fmt.Errorf("it answers %s", answer.Status)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return "", retell(err)
	case len(b) > maxAnswer:
		return "", fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return string(b), nil
}
