package host_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func TestErrorsOverThePipe(t *testing.T) {
	if err := host.OverThePipe(nil); err != nil {
		t.Errorf("no error: %v", err)
	}
	for _, tc := range []struct {
		err   error
		is    []error
		isNot []error
	}{
		{&fs.PathError{Op: "write", Path: "/x", Err: syscall.EBUSY}, []error{syscall.EBUSY}, []error{syscall.EINVAL, fs.ErrNotExist}},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, []error{syscall.ENOENT, fs.ErrNotExist}, []error{drivers.ErrGone}},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, []error{syscall.EACCES, fs.ErrPermission}, nil},
		{os.NewSyscallError("finit_module", syscall.EEXIST), []error{syscall.EEXIST, fs.ErrExist}, nil},
		{fmt.Errorf("x: %w", drivers.ErrFenced), []error{drivers.ErrFenced}, []error{drivers.ErrRefused}},
		{fmt.Errorf("x: %w", drivers.ErrGone), []error{drivers.ErrGone}, nil},
		{fmt.Errorf("x: %w", drivers.ErrUnsupported), []error{drivers.ErrUnsupported}, nil},
		{fmt.Errorf("%w: %w: %w", drivers.ErrRefused, drivers.ErrIllegal, fs.ErrNotExist), []error{drivers.ErrRefused, drivers.ErrIllegal, fs.ErrNotExist}, []error{drivers.ErrFenced}},
		{errors.New("just text"), nil, []error{drivers.ErrFenced, syscall.EIO}},
	} {
		got := host.OverThePipe(tc.err)
		if got.Error() != tc.err.Error() {
			t.Errorf("%q arrives as %q", tc.err, got)
		}
		for _, want := range tc.is {
			if !errors.Is(got, want) {
				t.Errorf("%q is no longer %q", got, want)
			}
		}
		for _, not := range tc.isNot {
			if errors.Is(got, not) {
				t.Errorf("%q has become %q", got, not)
			}
		}
	}
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	f := openFences(t, dir)
	owner, err := f.Claim()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, in, want string }{
		{"the end", "", ""},
		{"a write", `{"call":{"op":"sysfs","target":"0000:01:10.0","path":"/sys/bus/pci/drivers_probe","value":"0000:01:10.0"}}`, "{}\n"},
		{"an illegal one", `{"call":{"op":"sysfs","target":"0000:01:10.0","path":"/etc/passwd","value":"x"}}`, "illegal"},
		{"nothing asked", `{}`, "not_exist"},
		{"no JSON", `hello`, "read request"},
		{"half a request", `{"call":{"op":"sys`, "read request"},
	} {
		var out strings.Builder
		err := host.Serve(strings.NewReader(tc.in), &out, fakeKernel{dir}, f, owner)
		if got := out.String() + fmt.Sprint(err); !strings.Contains(got, tc.want) {
			t.Errorf("%s: answers %q and %v, want %q", tc.name, out.String(), err, tc.want)
		}
	}
}

// TestFenceFailureIsNoAnswerOfTheKernel: an errno of the fence's own file must
// not be taken for one of the write.
func TestFenceFailureIsNoAnswerOfTheKernel(t *testing.T) {
	r := newPool(t, t.TempDir())
	r.writer(t)
	if err := os.RemoveAll(filepath.Join(r.dir, "fence")); err != nil {
		t.Fatal(err)
	}
	err := r.Do(context.Background(), override(vf0, "igb"))
	if !errors.Is(err, drivers.ErrRefused) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want ErrRefused and no ENOENT", err)
	}
}
