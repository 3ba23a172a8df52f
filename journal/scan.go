package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Scan reads all of a journal as Open would believe it: pages, bbolt's own
// check, every record, the manifest. It is meant for a child process, so that
// whatever damage makes of bbolt happens there; see Reexec.
func Scan(path string) error {
	_, err := Verify(path)
	return err
}

// What the child's exit says. Anything else, a signal above all, is damage,
// except being killed, which may be the memory limit's doing.
const (
	exitCorrupt    = 40
	exitNewer      = 41
	exitLocked     = 42
	exitPermission = 43
	exitOther      = 44
)

// ScanMain is the whole of the child: it scans, prints the error and returns
// the exit code.
func ScanMain(path string, stderr io.Writer) int {
	err := Scan(path)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, err)
	switch {
	case errors.Is(err, ErrNewer):
		return exitNewer
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrNotExist):
		return exitCorrupt
	case errors.Is(err, ErrLocked):
		return exitLocked
	case errors.Is(err, ErrPermission):
		return exitPermission
	}
	return exitOther
}

// Reexec makes an Options.Scan that runs the command, which must end in
// ScanMain, with the path as its last argument.
func Reexec(command string, args ...string) func(ctx context.Context, path string) error {
	return func(ctx context.Context, path string) error {
		c := exec.CommandContext(ctx, command, append(args[:len(args):len(args)], path)...)
		c.WaitDelay = time.Second
		var text bytes.Buffer
		c.Stderr = &text
		err := c.Run()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return scanError(err, text.String())
	}
}

func scanError(err error, text string) error {
	if err == nil {
		return nil
	}
	if len(text) > maxText {
		text = text[:maxText]
	}
	text = strings.TrimSpace(text)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("start the scan: %w", err)
	}
	switch exit.ExitCode() {
	case exitNewer:
		return fmt.Errorf("%s: %w", text, ErrNewer)
	case exitLocked:
		return fmt.Errorf("%s: %w", text, ErrLocked)
	case exitPermission:
		return fmt.Errorf("%s: %w", text, ErrPermission)
	case exitOther:
		return fmt.Errorf("scan: %s", text)
	case exitCorrupt:
		return fmt.Errorf("%s: %w", text, ErrCorrupt)
	}
	if strings.Contains(exit.Error(), "killed") {
		return fmt.Errorf("scan was killed from outside: %w", err)
	}
	return fmt.Errorf("scan: %w: %s: %w", err, text, ErrCorrupt)
}
