package journal

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func benchOptions(b *testing.B) Options {
	return Options{Dir: b.TempDir() + "/journal", BootID: "b", MachineID: "m", Version: "v", FlushAfter: time.Second}
}

func benchLife(b *testing.B, j *Journal) {
	i := 0
	for b.Loop() {
		i++
		o, err := j.Begin(context.Background(), operation(i%50, "9000"), nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := j.Finish(o.ID, Done, ""); err != nil {
			b.Fatal(err)
		}
	}
}

// closeAtEnd closes a journal when the benchmark is over.
func closeAtEnd(b *testing.B, j *Journal) {
	b.Cleanup(func() {
		if err := j.Close(); err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkOperation is Begin and Finish: the journal's share of a change.
func BenchmarkOperation(b *testing.B) {
	b.Run("file", func(b *testing.B) {
		j, err := Open(context.Background(), benchOptions(b))
		if err != nil {
			b.Fatal(err)
		}
		closeAtEnd(b, j)
		benchLife(b, j)
	})
	b.Run("memory", func(b *testing.B) {
		j, err := OpenMemory(context.Background(), NewMemory(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		closeAtEnd(b, j)
		benchLife(b, j)
	})
}

// BenchmarkParallel is how group commit pays.
func BenchmarkParallel(b *testing.B) {
	for _, n := range []int{4, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			j, err := Open(context.Background(), benchOptions(b))
			if err != nil {
				b.Fatal(err)
			}
			closeAtEnd(b, j)
			benchTogether(b, j, n)
		})
	}
}

// benchTogether is benchLife by n at a time.
func benchTogether(b *testing.B, j *Journal, n int) {
	work := make(chan int)
	done := make(chan error, n)
	for w := range n {
		go func() {
			var first error
			for range work {
				o, err := j.Begin(context.Background(), operation(w, "9000"), nil)
				if err == nil {
					err = j.Finish(o.ID, Done, "")
				}
				if first == nil {
					first = err
				}
			}
			done <- first
		}()
	}
	for b.Loop() {
		work <- 0
	}
	close(work)
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is a start with a full history.
func BenchmarkOpen(b *testing.B) {
	o := benchOptions(b)
	j, err := Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		op, _ := j.Begin(context.Background(), operation(i%50, "9000"), nil)
		_ = j.Finish(op.ID, Done, "")
	}
	_ = j.Close()
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			j, err := Open(context.Background(), o)
			if err != nil {
				b.Fatal(err)
			}
			j.Abandon()
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := OpenReadOnly(o.Dir + "/" + FileName); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCrash is what a crash test pays for one run: clone, open, recover.
func BenchmarkCrash(b *testing.B) {
	m := NewMemory()
	j, err := OpenMemory(context.Background(), m, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 5 {
		_, _ = j.Begin(context.Background(), operation(i, "9000"), nil)
	}
	for b.Loop() {
		j, err := OpenMemory(context.Background(), m.Clone(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = j.Finish(1, Done, "")
		_, _ = j.Begin(context.Background(), operation(0, "1400"), nil)
		j.Abandon()
	}
}
