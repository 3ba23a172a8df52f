//go:build linux

package chaos

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tailLines is how much of the console an error carries.
const tailLines = 25

// console passes on what the guest and QEMU print, and remembers the end of it.
type console struct {
	mu   sync.Mutex // guards what follows, and orders writes to log
	log  io.Writer
	tail []string
	part []byte
}

// Write never fails: QEMU must not stop because a test's log did.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.log.Write(b)
	c.part = append(c.part, b...)
	for {
		line, rest, ok := bytes.Cut(c.part, []byte("\n"))
		if !ok {
			break
		}
		c.tail = append(c.tail, strings.TrimRight(string(line), "\r"))
		c.part = rest
	}
	if n := len(c.tail) - tailLines; n > 0 {
		c.tail = append([]string(nil), c.tail[n:]...)
	}
	return len(b), nil
}

func (c *console) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(c.tail[:len(c.tail):len(c.tail)], string(c.part)), "\n")
}
