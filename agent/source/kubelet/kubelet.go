package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"eniagent/drivers"
)

// DefaultSocket is where a kubelet answers unless its root directory is another.
const DefaultSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

const (
	patience   = 2 * time.Second
	maxMessage = 16 << 20 // as the kubelet's own clients; gRPC's 4 MB is too small for a large node
	// apart is the least time between two questions. A kubelet takes 100 a
	// second from all who ask, and refuses the others.
	apart = 20 * time.Millisecond
)

// Groups are the functions of an IOMMU group, by its number, that a program can
// open by it; none when there is no such group.
type Groups func(ctx context.Context, number string) ([]drivers.Target, error)

// Client asks one kubelet. Its methods may be called at once.
type Client struct {
	socket   string
	groups   Groups
	patience time.Duration // for one question

	mu   sync.Mutex // held while a question is under way
	seen bool       // the socket was there once
	last answer
}

type answer struct {
	at        time.Time
	allocated map[drivers.Target]string
	err       error
}

// New makes a Client of the kubelet at a socket. It opens nothing. Where groups is
// nil, an id that is a number names no function.
func New(socket string, groups Groups) *Client {
	return &Client{socket: socket, groups: groups, patience: patience}
}

// Allocated are the functions that are allocated, each with the pod, container
// and resource it is allocated to. The answer is one to a question that was
// begun after since, and may be shared: it is not to be changed. An error may
// be older than that by the time that the question took, as it allows nothing.
func (c *Client) Allocated(ctx context.Context, since time.Time) (map[drivers.Target]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.at.After(since) {
		return c.last.allocated, c.last.err
	}
	time.Sleep(apart - time.Since(c.last.at)) // who comes meanwhile shares the answer
	// The answer is for all who wait: it does not end with one of them.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.patience)
	defer cancel()
	begun := time.Now()
	allocated, err := c.ask(ctx)
	if err != nil {
		begun = time.Now() // who waited for it need not wait for another
	}
	c.last = answer{at: begun, allocated: allocated, err: err}
	return allocated, err
}

func (c *Client) ask(ctx context.Context) (map[drivers.Target]string, error) {
	there, err := exists(c.socket)
	if err != nil {
		return nil, err
	}
	if !there {
		if c.seen {
			return nil, fmt.Errorf("%s is gone", c.socket)
		}
		return nil, nil
	}
	c.seen = true
	r, err := list(ctx, c.socket, c.patience)
	if err != nil {
		return nil, err
	}
	return c.allocations(ctx, r)
}

// exists says whether the socket is there. A link that leads nowhere, as an
// absolute one does in the view of a container, says nothing of it.
func exists(socket string) (bool, error) {
	_, err := os.Stat(socket)
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	for at := filepath.Clean(socket); ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false, err
		case info.Mode()&fs.ModeSymlink != 0:
			return false, fmt.Errorf("%s is a symbolic link that leads nowhere", at)
		default:
			return false, nil
		}
	}
}

func list(ctx context.Context, socket string, within time.Duration) (*podresources.ListPodResourcesResponse, error) {
	// Connected here, the error is the kernel's own and plain.
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // gRPC closes it too, once it has it
	client, err := grpc.NewClient(
		"passthrough:///kubelet", grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }),
	)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", socket, err)
	}
	defer func() { _ = client.Close() }()
	r, err := podresources.NewPodResourcesListerClient(client).List(ctx, &podresources.ListPodResourcesRequest{})
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return r, nil
	case codes.DeadlineExceeded:
		return nil, fmt.Errorf("no answer at %s within %s", socket, within)
	default:
		return nil, fmt.Errorf("%s at %s: %s", s.Code(), socket, s.Message())
	}
}
