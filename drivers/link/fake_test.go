package link

import (
	"context"
	"strings"

	"eniagent/drivers/host/sim"
)

// fakeTwins is a host on which every function has two netdevs.
type fakeTwins struct{ *sim.Kernel }

func (f fakeTwins) List(ctx context.Context, path string) ([]string, error) {
	names, err := f.Kernel.List(ctx, path)
	if err == nil && strings.HasSuffix(path, "/net") {
		names = append(names, "twin0")
	}
	return names, err
}
