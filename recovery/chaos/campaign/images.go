//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"eniagent/recovery/chaos"
)

const (
	plugPort = 2 // the free one
	mounted  = "/tmp/image"
	imageDir = mounted + "/agent" // StateDir on the disk of an image
)

// replayed lets a node work with a log of all that its disk is told to write,
// makes images of what the disk had at random moments, and has another node
// read them.
func (c *campaign) replayed(ctx context.Context, fs string, rng *rand.Rand) (err error) {
	if c.images == 0 {
		return nil
	}
	c.mu.Lock()
	c.all += c.images
	c.mu.Unlock()
	dir, err := os.MkdirTemp("", "eniagent-images-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &recording{base: filepath.Join(dir, "base"), log: filepath.Join(dir, "log"), image: filepath.Join(dir, "image")}
	if err := chaos.MakeDisk(ctx, r.base, fs); err != nil {
		return err
	}
	if err := r.record(ctx, c, fs); err != nil {
		return fmt.Errorf("record the disk's writes: %w", err)
	}
	if err := r.parse(); err != nil {
		return fmt.Errorf("read the log of the disk's writes: %w", err)
	}
	n, err := c.newNode(ctx, fs, "", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.vm.Close()) }()
	for i := range c.images {
		m := modes()[i%len(modes())]
		at := rng.IntN(len(r.entries))
		if err := c.attempt(ctx, nil, fs+" disk image, "+m, i, func() error { return n.reads(ctx, r, m, at, rng) }); err != nil {
			return err
		}
	}
	return nil
}

// What a disk had written when the power went.
const (
	inOrder   = "cut"
	cacheLost = "cache lost"
	reordered = "reordered"
)

func modes() []string { return []string{inOrder, cacheLost, reordered} }

// recording is what a disk was told to write, from when it was empty.
type recording struct {
	base, log, image string
	entries          []entry
	marks            []mark
}

// mark is how long the log was when operations had been acknowledged.
type mark struct {
	size int64
	ids  []string
}

// entry is one of the log: a write of length bytes at sector*sectorSize, whose
// data is at offset of the log, or a flush.
type entry struct {
	sector, flags  uint64
	length, offset int64
}

// The log's format: drivers/md/dm-log-writes.c and QEMU's block/blklogwrites.c.
const (
	logMagic   = 0x6a736677736872
	sectorSize = 512
	flagFlush  = 1
	flagFUA    = 2
	discard    = 4
)

// record has a node change its mind again and again, with such a disk.
func (r *recording) record(ctx context.Context, c *campaign, fs string) error {
	if err := copyFile(ctx, r.base, r.image); err != nil {
		return err
	}
	if err := os.WriteFile(r.log, nil, 0o600); err != nil {
		return err
	}
	n, err := c.newNode(ctx, fs, r.image, r.log)
	if err != nil {
		return err
	}
	defer func() { _ = n.vm.Close() }() // it has been cut off
	for range 4 {
		for _, f := range c.families {
			for _, k := range f.kinds {
				if err := errors.Join(r.work(ctx, n, k.from(n)), r.work(ctx, n, k.to(n))); err != nil {
					return err
				}
			}
		}
	}
	return n.vm.PowerCut()
}

// work has the node reach an entry, and marks what is owed from then on.
func (r *recording) work(ctx context.Context, n *node, entry string) error {
	if err := n.want(ctx, entry); err != nil {
		return err
	}
	p, err := n.start(ctx, chaos.AgentPath)
	if err != nil {
		return err
	}
	if err := n.settle(ctx, p); err != nil {
		return err
	}
	info, err := os.Stat(r.log)
	if err != nil {
		return err
	}
	r.marks = append(r.marks, mark{info.Size(), acknowledged(p)})
	return nil
}

// parse reads the log's entries. Its header may be behind: it is as long as its
// file.
func (r *recording) parse() error {
	f, err := os.Open(r.log)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sector := make([]byte, sectorSize)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return err
	}
	if magic, size := binary.LittleEndian.Uint64(sector), binary.LittleEndian.Uint32(sector[24:]); magic != logMagic || size != sectorSize {
		return fmt.Errorf("magic %#x and sectors of %d bytes: want %#x and %d", magic, size, uint64(logMagic), sectorSize)
	}
	for at := int64(sectorSize); at+sectorSize <= info.Size(); {
		if _, err := f.ReadAt(sector, at); err != nil {
			return err
		}
		e := entry{
			sector: binary.LittleEndian.Uint64(sector), flags: binary.LittleEndian.Uint64(sector[16:]),
			length: int64(binary.LittleEndian.Uint64(sector[8:])) * sectorSize, offset: at + sectorSize,
		}
		at = e.offset
		if e.flags&discard == 0 {
			at += e.length
		}
		r.entries = append(r.entries, e)
	}
	if len(r.entries) < 100 {
		return fmt.Errorf("%d entries only", len(r.entries))
	}
	return nil
}

// make writes the image of a disk that lost its power when it had been told of
// the first entries.
func (r *recording) make(ctx context.Context, mode string, at int, rng *rand.Rand) error {
	if err := copyFile(ctx, r.base, r.image); err != nil {
		return err
	}
	flushed := 0 // all before it is on the disk
	for i := range at {
		if r.entries[i].flags&flagFlush != 0 {
			flushed = i
		}
	}
	log, err := os.Open(r.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	image, err := os.OpenFile(r.image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for i, e := range r.entries[:at] {
		cached := i > flushed && e.flags&flagFUA == 0
		if cached && (mode == cacheLost || mode == reordered && rng.IntN(2) == 0) || e.flags&discard != 0 || e.length == 0 {
			continue
		}
		if _, err := io.Copy(io.NewOffsetWriter(image, int64(e.sector)*sectorSize), io.NewSectionReader(log, e.offset, e.length)); err != nil {
			return errors.Join(err, image.Close())
		}
	}
	return image.Close()
}

// owed are the operations that must be on a disk that was cut off at an entry.
func (r *recording) owed(at int) (ids []string) {
	if at == 0 {
		return nil
	}
	end := r.entries[at-1].offset
	for _, m := range r.marks {
		if m.size <= end {
			ids = m.ids
		}
	}
	return ids
}

// reads is what must be true of an image: it mounts, the journal on it opens
// and is whole, and has every operation that was acknowledged.
func (n *node) reads(ctx context.Context, r *recording, mode string, at int, rng *rand.Rand) (err error) {
	if err := r.make(ctx, mode, at, rng); err != nil {
		return err
	}
	if err := n.vm.PlugDisk(ctx, plugPort, r.image); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.vm.UnplugDisk(context.WithoutCancel(ctx))) }()
	if err := n.helper(ctx, "mount", chaos.PluggedDisk, n.fs, mounted); err != nil {
		return fmt.Errorf("entry %d of %d: %w", at, len(r.entries), err)
	}
	defer func() { err = errors.Join(err, n.helper(context.WithoutCancel(ctx), "unmount", mounted)) }()
	owed := r.owed(at)
	if _, err := n.vm.ReadDir(ctx, imageDir+"/journal"); errors.Is(err, syscall.ENOENT) && len(owed) == 0 {
		return nil // not made yet
	}
	for _, args := range [][]string{{"journal", "list", "-n", "-1", "-o", "json"}, {"recover", "--yes"}, {"journal", "verify"}} {
		res, err := n.vm.Agent(ctx, append(args, "--state-dir", imageDir)...)
		if err != nil {
			return err
		}
		if !slices.Contains([]int{0, 1}, res.Code) || res.Code == 1 && len(owed) > 0 {
			return fmt.Errorf("entry %d of %d, %v: %v", at, len(r.entries), args, res)
		}
		if args[1] == "list" && res.Code == 0 {
			if err := lists(res, owed); err != nil {
				return fmt.Errorf("entry %d of %d: %w", at, len(r.entries), err)
			}
		}
	}
	return nil
}

func (n *node) helper(ctx context.Context, args ...string) error {
	res, err := n.vm.Run(ctx, chaos.Command(append([]string{chaos.Helper}, args...)...))
	if err == nil && !res.OK() {
		err = fmt.Errorf("%v: %v", args, res)
	}
	return err
}

// copyFile copies an image, holes as holes.
func copyFile(ctx context.Context, from, to string) error {
	if said, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy an image: %w: %s", err, said)
	}
	return nil
}
