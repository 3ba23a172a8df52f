package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"eniagent/drivers"
)

// Serve is the life of a writer child: it answers requests from in until in is
// closed. It ignores the signals that would end it, because a signal turns a
// wait inside the kernel into one that nothing can end. The rules are those of
// PoolOptions, whose Files the child gets after its owner.
func Serve(in io.Reader, out io.Writer, k Kernel, fences Fences, owner string, files ...string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if err := responses.Encode(serve(r, k, fences, owner, Rules{Files: files})); err != nil {
			return fmt.Errorf("write response: %w", err)
		}
	}
}

func serve(r request, k Kernel, fences Fences, owner string, rules Rules) response {
	ctx := context.Background()
	var answer response
	var err error
	switch {
	case r.Call != nil:
		err = write(ctx, *r.Call, k, fences, owner, rules)
	case r.Network:
		answer.Net, err = k.Network(ctx, r.To)
	case r.Settings != "":
		answer.Set, err = k.Settings(ctx, r.Index, r.Settings)
	case r.Children:
		answer.Children, err = k.Children(ctx)
	case r.Links:
		answer.Links, err = k.Links(ctx)
	default:
		answer.Text, err = k.Read(ctx, r.Read)
	}
	answer.Error = encodeError(err)
	return answer
}

// write is the one place where a host is written. The order matters: fence,
// then owner, then write; see Fences.Claim. What goes wrong with the fence
// itself is drivers.ErrStarved without an errno, because an errno is the answer
// of the write.
func write(ctx context.Context, c Call, k Kernel, fences Fences, owner string, rules Rules) error {
	if err := rules.Allowed(c); err != nil {
		return err
	}
	release, err := fences.Take(c.Target)
	if errors.Is(err, drivers.ErrFenced) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %s", drivers.ErrStarved, err.Error())
	}
	defer release()
	if c.Op == OpReplace {
		// Its entries have a fence each, and the file one writer.
		unlock, err := fences.Wait(fileFence(c.Path))
		if err != nil {
			return fmt.Errorf("%w: %s", drivers.ErrStarved, err.Error())
		}
		defer unlock()
	}
	if err := fences.Owned(owner); err != nil {
		return err
	}
	err = k.Do(ctx, c)
	if drivers.Starved(err) { // nor is the lack of a descriptor for it
		return fmt.Errorf("%w: %w", drivers.ErrStarved, err)
	}
	return err
}
