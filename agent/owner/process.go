package owner

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// maxCommand is how much of a command line is shown.
const maxCommand = 80

// processes are those that run now and whose command line names the function
// and a way to bind it. They are only likely: one that is seen once may be the
// last.
func (s search) processes(ctx context.Context) []Owner {
	if s.key.Kind != dpdk.KindDriver {
		return nil
	}
	pids, err := s.reader.List(ctx, "/proc")
	if err != nil {
		return nil
	}
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		text, err := s.reader.Read(ctx, "/proc/"+pid+"/cmdline")
		command := strings.TrimSpace(strings.ReplaceAll(text, "\x00", " "))
		// Tools take an address without its domain, too.
		if err != nil || !strings.Contains(command, strings.TrimPrefix(s.address, "0000:")) || !s.writes(command) {
			continue
		}
		return []Owner{{
			Name: toolIn(command), Evidence: fmt.Sprintf("process %s runs %q", pid, short(command)),
			Remedy: "end it, and what starts it",
		}}
	}
	return nil
}

// toolIn is the tool that a command line runs, which may be in a shell's.
func toolIn(command string) string {
	for _, tool := range []string{"driverctl", "dpdk-devbind"} {
		if strings.Contains(command, tool) {
			return tool
		}
	}
	program, _, _ := strings.Cut(command, " ")
	return path.Base(program)
}

func short(command string) string {
	if len(command) <= maxCommand {
		return command
	}
	return strings.ToValidUTF8(command[:maxCommand], "") + "..."
}

// overridden is what driverctl leaves of a function, saved or not: an override
// that names the kernel's driver it has.
func (s search) overridden(ctx context.Context) []Owner {
	if s.key.Kind != dpdk.KindDriver {
		return nil
	}
	driver, err := host.DriverOf(ctx, s.reader, s.address)
	if err != nil || driver == "" || drivers.Bare(driver) {
		return nil
	}
	override, err := s.reader.Read(ctx, host.Attr(s.address, "driver_override"))
	if err != nil || override != driver {
		return nil
	}
	return []Owner{{
		Name: "driverctl", Evidence: "driver_override names " + driver + ", which has it, as driverctl set-override leaves it",
		Remedy: "find what runs driverctl, or ask for driver " + driver + " here too",
	}}
}
