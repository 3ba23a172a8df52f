package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"eniagent/drivers"
)

// child is one writer child and the pipes to it.
type child struct {
	used time.Time // last
	cmd  *exec.Cmd
	in   *os.File
	enc  *json.Encoder
	dec  *json.Decoder
	out  *os.File
}

type reply struct {
	response
	err error // of the pipe
}

// result tells the child's end from the kernel's answer. When the pipe failed
// nobody knows whether the write was made; observing tells.
func (r reply) result(what string, t drivers.Target) (response, error) {
	if r.err != nil {
		return response{}, fmt.Errorf("%s %s: writer child: %w", what, t, r.err)
	}
	return r.response, r.Error.decode()
}

// startChild starts the same binary in a session of its own, so that a ^C in
// the agent's terminal does not reach a write inside the kernel. Every other
// file of the agent, the journal above all, is close-on-exec.
func startChild(argv []string) (*child, error) {
	if len(argv) == 0 {
		return nil, errors.New("start writer child: no command")
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start writer child: %w", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start writer child: %w", errors.Join(err, inR.Close(), inW.Close()))
	}
	// A write in the kernel has no end that a context could bring about.
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	err = errors.Join(err, inR.Close(), outW.Close())
	if err != nil {
		return nil, fmt.Errorf("start writer child: %w", errors.Join(err, inW.Close(), outR.Close()))
	}
	return &child{cmd: cmd, in: inW, enc: json.NewEncoder(inW), dec: json.NewDecoder(outR), out: outR}, nil
}

func (c *child) receive() reply {
	var a reply
	a.err = c.dec.Decode(&a.response)
	return a
}

// close ends a child that is not inside a request, and reaps it.
func (c *child) close() error {
	err := c.in.Close()
	exit := c.cmd.Wait()
	return errors.Join(err, exit, c.out.Close())
}
