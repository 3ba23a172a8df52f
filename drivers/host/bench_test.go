package host_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"eniagent/drivers/host"
)

// The same write, of one attribute file, in this process and in a kept child.
// The difference is what a child costs; a VF bind takes some 45 ms.

func benchRoot(b *testing.B) (root string, c host.Call) {
	b.Helper()
	root = b.TempDir()
	c = override(vf0, "vfio-pci")
	if err := os.MkdirAll(filepath.Dir(filepath.Join(root, c.Path)), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, c.Path), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	return root, c
}

func BenchmarkWriteDirect(b *testing.B) {
	root, c := benchRoot(b)
	l := host.Linux{Root: root}
	for b.Loop() {
		if err := l.Do(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteThroughChild(b *testing.B) {
	root, c := benchRoot(b)
	r := newPool(b, root, func(o *host.PoolOptions) {
		o.Command = []string{"/usr/bin/env", roleVar + "=linux", os.Args[0], root}
	})
	r.must(b, c)
	b.ResetTimer()
	for b.Loop() {
		if err := r.Do(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteInNewChild(b *testing.B) {
	root, c := benchRoot(b)
	for b.Loop() {
		r := newPool(b, root, func(o *host.PoolOptions) {
			o.Command = []string{"/usr/bin/env", roleVar + "=linux", os.Args[0], root}
		})
		r.must(b, c)
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
