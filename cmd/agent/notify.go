package main

import (
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"eniagent/agent"
)

// notifier tells the service manager how the agent stands, in the words of
// sd_notify(3).
type notifier struct {
	socket string        // a path, or a name that begins with "@"
	ping   time.Duration // how often the watchdog wants to hear; 0 is never

	mu     sync.Mutex // guards what follows: two goroutines tell
	said   agent.Notice
	pinged time.Time
}

// newNotifier takes what the service manager left in the environment out of
// it, so that no child speaks, or is taken to speak, for the agent. It is nil
// where nobody listens.
func newNotifier() *notifier {
	n := &notifier{socket: taken("NOTIFY_SOCKET")}
	limit, err := strconv.ParseInt(taken("WATCHDOG_USEC"), 10, 64)
	if pid := taken("WATCHDOG_PID"); err == nil && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.ping = time.Duration(limit) * time.Microsecond / 2
	}
	if n.socket == "" {
		return nil
	}
	return n
}

// taken is a variable of the environment, which no longer has it.
func taken(name string) string {
	v := os.Getenv(name)
	_ = os.Unsetenv(name) // fails for a name with "=" only
	return v
}

// tell says what is new. What could not be said is said again with the next
// notice: the agent makes one each second.
func (n *notifier) tell(x agent.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.said.Stopping {
		return // the last word
	}
	var lines []string
	if x.Started && !n.said.Started {
		lines = append(lines, "READY=1")
	}
	if x.Stopping {
		lines = append(lines, "STOPPING=1")
	}
	if x.Text != n.said.Text {
		lines = append(lines, "STATUS="+x.Text)
	}
	ping := n.ping > 0 && x.Alive && time.Since(n.pinged) >= n.ping
	if ping {
		lines = append(lines, "WATCHDOG=1")
	}
	if len(lines) == 0 || n.send(strings.Join(lines, "\n")) != nil {
		return
	}
	x.Started = x.Started || n.said.Started
	n.said = x
	if ping {
		n.pinged = time.Now()
	}
}

// send does not wait for a service manager that does not read.
func (n *notifier) send(text string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(text))
	return err
}
