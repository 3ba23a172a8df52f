package host_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"eniagent/drivers/host"
)

// faulty is a host on which every read fails with the same error.
type faulty struct {
	host.Host
	err error
}

func (f faulty) Read(context.Context, string) (string, error) { return "", f.err }
func (f faulty) Settings(context.Context, int, host.Setting) (host.Settings, error) {
	return host.Settings{}, f.err
}

// TestNoting: what fails is noted for the question and for those that it is a part
// of, what is an answer is not.
func TestNoting(t *testing.T) {
	failed := &fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}
	outer, all := host.Noting(t.Context())
	inner, part := host.Noting(outer)
	other, rest := host.Noting(outer)
	for _, answer := range []error{fs.ErrNotExist, syscall.EINVAL, syscall.EOPNOTSUPP, syscall.ENOTDIR} {
		_, _ = host.Attentive(faulty{err: answer}).Read(inner, "/sys/x")
	}
	h := host.Attentive(faulty{err: failed})
	_, _ = h.Read(inner, "/dev/vfio/8")
	_, _ = h.Read(inner, "/proc/17/comm")
	_, _ = h.Read(t.Context(), "/sys/x") // nobody asks
	if err := all.Failed(); err != nil {
		t.Fatalf("noted %v", err)
	}
	_, _ = h.Read(inner, "/proc/sys/kernel/osrelease")
	_, _ = host.Attentive(faulty{err: syscall.ENODEV}).Settings(other, 7, host.SettingRings)
	for _, n := range []*host.Noted{all, part} {
		if !errors.Is(n.Failed(), failed) || !n.Caused(fmt.Errorf("bind: %w", failed)) || n.Caused(syscall.EIO) {
			t.Errorf("noted %v", n.Failed())
		}
	}
	if !errors.Is(rest.Failed(), syscall.ENODEV) || rest.Caused(failed) {
		t.Errorf("another question has %v", rest.Failed())
	}
}
