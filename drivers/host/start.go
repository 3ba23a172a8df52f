package host

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetStart lets go of the pages of this program's file that are mapped into
// this process. The start of a Go program runs through every package that it is
// linked of, here most of its file; what is needed later comes back from the page
// cache, by a fault each (madvise(2), MADV_DONTNEED on a private mapping of a
// file that is not written).
func ForgetStart() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }() // only read from
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var mode string
		line := lines.Text()
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || !strings.HasSuffix(line, " "+self) || !strings.HasPrefix(mode, "r-") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("forget pages of the start: %w", errno)
		}
	}
	return nil
}
