package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// backupSuffix is the copy of a journal as it was before its last upgrade.
const backupSuffix = ".before-upgrade"

// Upgraded is what an upgrade of the format does, or did.
type Upgraded struct {
	Path    string `json:"path"`
	From    int    `json:"from"` // format that the file is written in
	To      int    `json:"to"`   // newest that this agent knows
	Records int    `json:"records"`
	// Kept are records of a newer agent, which stay as they are.
	Kept   []string `json:"kept,omitempty"`
	Backup string   `json:"backup,omitempty"`
	Done   bool     `json:"done"`
}

// Needed says whether there is anything to upgrade.
func (u *Upgraded) Needed() bool { return u.From < u.To }

// PlanUpgrade says what Upgrade would do, and changes nothing.
func PlanUpgrade(dir string) (Upgraded, error) { return codec{}.planUpgrade(dir) }

func (c codec) planUpgrade(dir string) (Upgraded, error) {
	s, err := c.openReadOnly(filepath.Join(dir, FileName))
	if err != nil {
		return Upgraded{}, err
	}
	return s.upgrade(s.Path), nil
}

// upgrade is what an upgrade of these records would do.
func (r *Records) upgrade(path string) Upgraded {
	u := Upgraded{Path: path, From: r.codec.writes(), To: r.codec.newest(), Records: 1} // the manifest
	for _, t := range r.tallies() {
		u.Records += t.Count
	}
	u.Records -= len(r.unreadable)
	for _, l := range r.unreadable {
		u.Kept = append(u.Kept, l.Key)
	}
	if u.Needed() {
		u.Backup = path + backupSuffix
	}
	return u
}

// Upgrade writes the journal in o.Dir anew in the newest format that this
// agent knows: a durable copy beside it, then all records in one commit, then
// a look at every byte. Agents that know less refuse the journal from then on.
// No agent may be running, and a damaged journal is left to the next one. After
// an error before the commit the journal is as it was.
func Upgrade(ctx context.Context, o Options) (u Upgraded, err error) {
	o = o.withDefaults()
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return u, fmt.Errorf("upgrade: %w", err)
	}
	if u, err = o.codec.planUpgrade(o.Dir); err != nil || !u.Needed() {
		return u, err
	}
	path := u.Path
	if _, err := prepareDir(o.Dir); err != nil {
		return u, fmt.Errorf("upgrade: %w", err)
	}
	l, err := takeLock(ctx, o.Dir, o.LockTimeout)
	if err != nil {
		return u, fmt.Errorf("upgrade: %w", err)
	}
	defer l.release()
	s, r, err := openChecked(ctx, o, path)
	if err != nil {
		return u, fmt.Errorf("upgrade: %w", err)
	}
	u, o.BootID = r.upgrade(path), r.manifest.BootID // the baselines are of that boot
	j := newJournal(o, s, r)
	if err := backup(path, u.Backup); err != nil {
		j.Abandon()
		return u, fmt.Errorf("upgrade: copy the journal, which is unchanged: %w", err)
	}
	r.codec = r.codec.writing(u.To)
	if err := j.commitChange(ctx, "upgrade", j.rewrite); err != nil {
		j.Abandon() // Close would try again
		return u, fmt.Errorf("upgrade: %w; the copy from before is %s", err, u.Backup)
	}
	err = j.Close()
	if err == nil {
		_, err = o.codec.verify(path)
	}
	if err != nil {
		return u, fmt.Errorf("upgrade: %w; the copy from before is %s", err, u.Backup)
	}
	u.Done = true
	return u, nil
}

// rewrite encodes every record that can be read anew.
func (r *Records) rewrite(e *edit) error {
	m, _ := r.meta.get(keyMeta)
	next := *m
	next.Format, next.MinReader = e.codec.writes(), e.codec.writes()
	return errors.Join(
		put(e, r.meta, keyMeta, &next, 1),
		again(e, r.degraded), again(e, r.open), again(e, r.quarantine), again(e, r.done),
		again(e, r.failures), again(e, r.baselines), again(e, r.desired), again(e, r.control),
	)
}

func again[T any, P interface {
	*T
	record
}](e *edit, t *table[T]) error {
	for key, rec := range t.all() {
		if err := put(e, t, key, P(rec), 0); err != nil {
			return err
		}
	}
	return nil
}

// backup makes a durable copy of the file under another name, in the place of
// an older one. The caller holds the locks.
func backup(path, name string) error {
	temp := path + tempSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return explain(err)
	}
	if err := copyFile(path, temp); err != nil {
		_ = os.Remove(temp)
		return explain(err)
	}
	if err := os.Rename(temp, name); err != nil {
		return explain(err)
	}
	return syncDir(filepath.Dir(path))
}

func copyFile(from, to string) (err error) {
	src, err := openRead(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Sync()
}
