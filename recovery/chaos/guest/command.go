//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"eniagent/recovery/chaos/wire"
)

// drain is how long after a program's exit its output is still waited for. A child it left behind may keep the pipe
// open for ever, and that is not the program's exit.
const drain = 200 * time.Millisecond

func (s *server) runCommand(r wire.Request) {
	done := wire.Reply{ID: r.ID, Done: true}
	cmd, outputs, err := s.start(r)
	if err != nil {
		fail(&done, err)
		s.reply(done)
		return
	}
	s.reply(wire.Reply{ID: r.ID, PID: cmd.Process.Pid})
	read := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.stream(outputs[0], func(b []byte) wire.Reply { return wire.Reply{ID: r.ID, Stdout: b} })
	})
	wg.Go(func() {
		s.stream(outputs[1], func(b []byte) wire.Reply { return wire.Reply{ID: r.ID, Stderr: b} })
	})
	go func() {
		wg.Wait()
		close(read)
		_, _ = outputs[0].Close(), outputs[1].Close()
	}()

	err = cmd.Wait()
	select {
	case <-read:
	case <-time.After(drain):
	}
	s.mu.Lock()
	delete(s.run, r.ID)
	s.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fail(&done, err)
	}
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		done.Code = st.ExitStatus()
		if st.Signaled() {
			done.Signal = int(st.Signal())
		}
	}
	s.reply(done)
}

// start runs the program in a process group of its own, so that all of it can be signalled.
func (s *server) start(r wire.Request) (*exec.Cmd, [2]*os.File, error) {
	var outputs [2]*os.File
	if len(r.Args) == 0 {
		return nil, outputs, errors.New("no program named")
	}
	cmd := exec.CommandContext(context.Background(), r.Args[0], r.Args[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Dir = r.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if len(r.Data) > 0 {
		cmd.Stdin = bytes.NewReader(r.Data)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, outputs, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		_, _ = outR.Close(), outW.Close()
		return nil, outputs, err
	}
	cmd.Stdout, cmd.Stderr = outW, errW

	// Held over the start, so that a signal never comes between it and the entry.
	s.mu.Lock()
	if err = cmd.Start(); err == nil {
		s.run[r.ID] = cmd.Process
	}
	s.mu.Unlock()
	_, _ = outW.Close(), errW.Close()
	if err != nil {
		_, _ = outR.Close(), errR.Close()
		return nil, outputs, err
	}
	return cmd, [2]*os.File{outR, errR}, nil
}
