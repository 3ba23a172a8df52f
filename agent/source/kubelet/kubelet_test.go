package kubelet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"eniagent/agent/source/kubelet"
	"eniagent/agent/source/kubelet/kubelettest"
	"eniagent/drivers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vf = "0000:01:10.0"

// socketIn is a path in a directory short enough for one.
func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "kubelet.sock")
}

func serve(t *testing.T, socket string) *kubelettest.Kubelet {
	t.Helper()
	k, err := kubelettest.Serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

func pod(devices ...string) kubelettest.Pod {
	return kubelettest.Pod{Namespace: "media", Name: "encoder-0", Container: "dpdk", Resource: "intel.com/vf", Devices: devices}
}

// unhurried is how long these tests wait for an answer, on a busy machine.
const unhurried = 5 * time.Minute

func patient(socket string) *kubelet.Client {
	return kubelet.New(socket, nil).Within(unhurried)
}

// ask asks for an answer to a question of its own.
func ask(t *testing.T, c *kubelet.Client) (map[drivers.Target]string, error) {
	t.Helper()
	return c.Allocated(t.Context(), time.Now())
}

// silent wants an error that says all of want, and no allocations.
func silent(t *testing.T, c *kubelet.Client, want ...string) {
	t.Helper()
	allocated, err := ask(t, c)
	if err == nil || allocated != nil {
		t.Fatalf("answered %v, %v", allocated, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q: %v", w, err)
		}
	}
}

func TestAllocated(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	k.Run(pod("0000:01:10.2", vf), kubelettest.Pod{Namespace: "ml", Name: "train", Container: "main", Resource: "nvidia.com/gpu", Devices: []string{"GPU-8d5f0a2e"}})
	allocated, err := ask(t, patient(socket))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := allocated[vf], "pod media/encoder-0, container dpdk, resource intel.com/vf"; got != want {
		t.Errorf("%s is allocated to %q, want %q", vf, got, want)
	}
	if len(allocated) != 2 {
		t.Errorf("allocated are %v", allocated)
	}
}

func TestDeviceIDs(t *testing.T) {
	for id, want := range map[string][]drivers.Target{
		vf:                                 {vf},
		"0000:3B:00.1":                     {"0000:3b:00.1"},
		"3b:00.1":                          {"0000:3b:00.1"},
		"10000:e1:00.0":                    {"10000:e1:00.0"},
		"pci/0000:3b:00.1":                 {"0000:3b:00.1"},
		"0000:3b:00.1_vhost":               {"0000:3b:00.1"},
		"vf0000:3b:00.1":                   {"0000:3b:00.1", "f0000:3b:00.1"},
		"0000-3b-00-1":                     {"0000:3b:00.1"},
		"pci-0000-3b-00-1":                 {"0000:3b:00.1"},
		"x.com/vf=claim-7f-0000:3b:00.1":   {"0000:3b:00.1"},
		"0000:3b:00.1,0000:3b:00.2":        {"0000:3b:00.1", "0000:3b:00.2"},
		"":                                 nil,
		"11":                               nil,
		"0000:3b:00":                       nil,
		"0000:3b:20.1":                     nil,
		"0000:3b:00.8":                     nil,
		"52:54:00:12:34:56":                nil,
		"../../../sys/bus/pci/devices":     nil,
		"6f1c2a9e-0b7d-4c11-9a31-27e20bd1": nil,
	} {
		socket := socketIn(t)
		serve(t, socket).Run(pod(id))
		allocated, err := ask(t, patient(socket))
		if err != nil {
			t.Errorf("%q: %v", id, err)
		}
		var got []drivers.Target
		for a := range allocated {
			got = append(got, a)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q names %q, want %q", id, got, want)
		}
	}
}

func TestClaims(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	k.Answer(&podresources.PodResources{Namespace: "media", Name: "encoder-0", Containers: []*podresources.ContainerResources{
		nil, {Name: "dpdk", DynamicResources: []*podresources.DynamicResource{{
			ClaimNamespace: "media", ClaimName: "two-vfs", ClaimResources: []*podresources.ClaimResource{
				{DriverName: "sriov.example.com", PoolName: "node-1", DeviceName: "0000-01-10-0"},
				{DriverName: "sriov.example.com", CdiDevices: []*podresources.CDIDevice{{Name: "example.com/vf=0000:01:10.2"}}},
			},
		}}},
	}}, nil)
	allocated, err := ask(t, patient(socket))
	if err != nil {
		t.Fatal(err)
	}
	want := "pod media/encoder-0, container dpdk, claim media/two-vfs of sriov.example.com"
	for _, t0 := range []drivers.Target{vf, "0000:01:10.2"} {
		if allocated[t0] != want {
			t.Errorf("%s is allocated to %q, want %q", t0, allocated[t0], want)
		}
	}
}

func TestNoSocketIsNoKubelet(t *testing.T) {
	socket := socketIn(t)
	for _, path := range []string{socket, filepath.Join(filepath.Dir(socket), "not", "there", "kubelet.sock")} {
		if allocated, err := ask(t, patient(path)); err != nil || len(allocated) != 0 {
			t.Errorf("%s: answered %v, %v", path, allocated, err)
		}
	}
	link := filepath.Join(filepath.Dir(socket), "link")
	if err := os.Symlink("/not/there", link); err != nil {
		t.Fatal(err)
	}
	silent(t, kubelet.New(filepath.Join(link, "kubelet.sock"), nil), link, "symbolic link")
	silent(t, patient(link), link, "symbolic link")
}

// TestKubeletRestarts: one client, the socket made anew under it.
func TestKubeletRestarts(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	k.Run(pod(vf))
	c := patient(socket)
	if allocated, err := ask(t, c); err != nil || len(allocated) != 1 {
		t.Fatalf("answered %v, %v", allocated, err)
	}
	k.Stop()
	silent(t, c, socket, "connection refused") // the file is there, as a dead kubelet leaves it
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	silent(t, c, socket, "is gone")
	k = serve(t, socket)
	k.Run(pod("0000:01:10.2"))
	if allocated, err := ask(t, c); err != nil || allocated["0000:01:10.2"] == "" || len(allocated) != 1 {
		t.Errorf("the new kubelet answered %v, %v", allocated, err)
	}
}

func TestErrorsAreNotAnEmptyAnswer(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	c := patient(socket)
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		k.Fault(func(context.Context) error { return status.Error(code, "not now") })
		if code == codes.DeadlineExceeded {
			silent(t, c, "no answer at "+socket)
			continue
		}
		silent(t, c, code.String(), "not now", socket)
	}
	k.Fault(nil)
	if _, err := ask(t, c); err != nil {
		t.Error(err)
	}
}

// TestWhoIsNotAKubelet: each listens at the socket and is none.
func TestWhoIsNotAKubelet(t *testing.T) {
	unimplemented := grpc.NewServer()
	t.Cleanup(unimplemented.Stop)
	for name, tc := range map[string]struct {
		serve func(net.Listener)
		want  string
	}{
		"another service":      {func(l net.Listener) { _ = unimplemented.Serve(l) }, "Unimplemented"},
		"it hangs up":          {each(func(c net.Conn) { _ = c.Close() }), "Unavailable"},
		"it talks nonsense":    {each(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); _ = c.Close() }), "Unavailable"},
		"it accepts and waits": {each(func(c net.Conn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() }), "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := socketIn(t)
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			go tc.serve(l)
			c := patient(socket)
			if tc.want == "no answer" {
				c = kubelet.New(socket, nil)
			}
			silent(t, c, tc.want)
		})
	}
	t.Run("it is a file", func(t *testing.T) {
		socket := socketIn(t)
		if err := os.WriteFile(socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		silent(t, patient(socket), "connection refused")
	})
}

func each(do func(net.Conn)) func(net.Listener) {
	return func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go do(c)
		}
	}
}

// TestAKubeletThatHangs: the deadline holds.
func TestAKubeletThatHangs(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	k.Fault(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	began := time.Now()
	silent(t, kubelet.New(socket, nil), "within 2s")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was waited for %s", took)
	}
}

// TestAnErrorIsForAllWhoWaited: who came while a question ran that failed asks
// no other.
func TestAnErrorIsForAllWhoWaited(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	begun, over := make(chan struct{}, 9), make(chan struct{})
	k.Fault(func(context.Context) error {
		begun <- struct{}{}
		<-over
		return errors.New("over")
	})
	c := patient(socket)
	fails := func(since time.Time) {
		if _, err := c.Allocated(t.Context(), since); err == nil || !strings.Contains(err.Error(), "over") {
			t.Errorf("answered %v", err)
		}
	}
	var all sync.WaitGroup
	first := time.Now()
	all.Go(func() { fails(first) })
	<-begun
	for range 8 {
		since := time.Now()
		all.Go(func() { fails(since) })
	}
	close(over)
	all.Wait()
	if k.Asked() != 1 {
		t.Errorf("%d questions", k.Asked())
	}
}

// TestAnswersAreSharedAsFarAsTheyMayBe: no answer is older than was asked for.
func TestAnswersAreSharedAsFarAsTheyMayBe(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	c := patient(socket)
	for range 100 {
		if _, err := c.Allocated(t.Context(), time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if n := k.Asked(); n != 1 {
		t.Errorf("%d questions for 100 callers who take an old answer", n)
	}
	k.Run(pod(vf))
	if allocated, err := ask(t, c); err != nil || allocated[vf] == "" {
		t.Errorf("the answer from before the allocation was given: %v, %v", allocated, err)
	}
	// Who comes while a question is under way gets the next one's answer.
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	k.Fault(func(context.Context) error {
		begun <- struct{}{}
		<-finish
		return nil
	})
	var all sync.WaitGroup
	all.Go(func() { _, _ = c.Allocated(t.Context(), time.Now()) })
	<-begun
	before := k.Asked()
	k.Fault(nil)
	k.Run(pod("0000:01:10.2"))
	for range 20 {
		since := time.Now()
		all.Go(func() {
			if allocated, err := c.Allocated(t.Context(), since); err != nil || allocated["0000:01:10.2"] == "" {
				t.Errorf("answered %v, %v", allocated, err)
			}
		})
	}
	close(finish)
	all.Wait()
	if n := k.Asked() - before; n < 1 || n > 2 {
		t.Errorf("%d more questions for 20 callers at once", n)
	}
}

func TestACallerThatLeavesEndsNobodysQuestion(t *testing.T) {
	socket := socketIn(t)
	serve(t, socket).Run(pod(vf))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if allocated, err := patient(socket).Allocated(ctx, time.Now()); err != nil || allocated[vf] == "" {
		t.Errorf("answered %v, %v", allocated, err)
	}
}

// TestALargeNode: the answer is larger than gRPC takes by itself, and one that
// is larger than this client takes is an error.
func TestALargeNode(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	var pods []kubelettest.Pod
	for i := range 10_000 {
		p := pod(fmt.Sprintf("%04x:%02x:%02x.%d", i>>12, i>>4&0xff, i>>3&1, i&7))
		p.Container = strings.Repeat("c", 1024)
		pods = append(pods, p)
	}
	k.Run(pods...)
	began := time.Now()
	allocated, err := ask(t, patient(socket))
	t.Logf("10,000 devices in %s", time.Since(began))
	if err != nil || len(allocated) != 10_000 {
		t.Errorf("%d are allocated, %v", len(allocated), err)
	}
	pods[0].Container = strings.Repeat("c", 17<<20)
	k.Run(pods...)
	silent(t, patient(socket), "ResourceExhausted")
}

// TestQuestionsAreApart: a kubelet refuses more than 100 a second, with bursts
// of 10, and others ask it too.
func TestQuestionsAreApart(t *testing.T) {
	socket := socketIn(t)
	k := serve(t, socket)
	c := patient(socket)
	began := time.Now()
	for range 16 {
		if _, err := ask(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 300*time.Millisecond || k.Asked() != 16 {
		t.Errorf("%d questions within %s", k.Asked(), took)
	}
}

// TestDeviceIDsThatAreIOMMUGroups: KubeVirt's are the number of a group. What its
// functions are is asked each time.
func TestDeviceIDsThatAreIOMMUGroups(t *testing.T) {
	socket := socketIn(t)
	serve(t, socket).Run(pod("23"), pod("/dev/vfio/8"), pod("vfio/noiommu-9"), pod("1234567"), pod("7.5"), pod("0x17"))
	of := map[string][]drivers.Target{"23": {vf, "0000:01:10.2"}, "8": {"0000:3b:00.1"}}
	var unread error
	c := kubelet.New(socket, func(_ context.Context, number string) ([]drivers.Target, error) { return of[number], unread }).Within(unhurried)
	for _, want := range []int{3, 1} {
		allocated, err := ask(t, c)
		if err != nil || len(allocated) != want {
			t.Errorf("allocated are %v (%v), want %d", allocated, err, want)
		}
		delete(of, "23")
	}
	of["23"] = []drivers.Target{vf}
	allocated, _ := ask(t, c)
	if got, want := allocated[vf], "pod media/encoder-0, container dpdk, resource intel.com/vf, as IOMMU group 23"; got != want {
		t.Errorf("%s is allocated to %q, want %q", vf, got, want)
	}
	unread = errors.New("input/output error")
	silent(t, c, "23", "input/output error")
}
