package journal

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Snapshot is the contents of a journal as they were when it was read. The
// file is closed again.
type Snapshot struct {
	*Records
	Path     string
	Bytes    int64
	Modified time.Time
}

// OpenReadOnly reads a journal, which may be a copy from another machine, and
// never changes it: not a byte, not its times. It holds a shared lock for the
// few milliseconds that reading takes, so that an agent that starts meanwhile
// is not kept out. While an agent runs it is ErrLocked: ask the agent.
func OpenReadOnly(path string) (*Snapshot, error) { return codec{}.openReadOnly(path) }

func (c codec) openReadOnly(path string) (*Snapshot, error) {
	im, done, err := lockedImage(path)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	rows, err := im.rows()
	done() // decoding takes longer than reading, and needs no lock
	if err != nil {
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	r, err := readRecords(c, func(fn func(bucket, key string, value []byte) error) error {
		for _, w := range rows {
			if err := fn(w.bucket, w.key, w.value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	r.bootID = r.manifest.BootID
	return &Snapshot{Records: r, Path: path, Bytes: im.size, Modified: r.manifest.Written}, nil
}

// Memory is a store with the records of the snapshot, for OpenMemory: what a
// command would do to a journal is tried there, and the file stays as it is.
func (s *Snapshot) Memory() (*Memory, error) {
	s.mu.RLock()
	rows, manifest := s.rows(), s.manifest
	s.mu.RUnlock()
	raw, err := s.codec.encode(BucketMeta, keyManifest, &manifest)
	if err != nil {
		return nil, fmt.Errorf("copy journal: %w", err)
	}
	m := NewMemory()
	return m, m.commit(append(rows, write{BucketMeta, keyManifest, raw}))
}

var (
	_ View = (*Snapshot)(nil)
	_ View = (*Journal)(nil)
)

// line is one record of an export.
type line struct {
	Bucket string          `json:"bucket"`
	Key    string          `json:"key"`
	Record json.RawMessage `json:"record,omitempty"`
	Raw    []byte          `json:"raw,omitempty"` // of a newer agent
}

// Export writes every record as a line of JSON, the manifest first, the rest
// by bucket and key.
func (r *Records) Export(w io.Writer) error {
	r.mu.RLock()
	rows, manifest := r.rows(), r.manifest
	r.mu.RUnlock()
	m, err := marshal(manifest)
	if err != nil {
		return fmt.Errorf("export manifest: %w", err)
	}
	slices.SortFunc(rows, func(a, b write) int {
		return strings.Compare(a.bucket+"\x00"+a.key, b.bucket+"\x00"+b.key)
	})
	lines := []line{{Bucket: BucketMeta, Key: plainKey(BucketMeta, keyManifest), Record: m}}
	for _, row := range rows {
		l := line{Bucket: row.bucket, Key: plainKey(row.bucket, row.key)}
		if f, err := r.codec.unseal(row.bucket, row.key, row.value); err == nil {
			l.Record = f.payload
		} else {
			l.Raw = row.value
		}
		lines = append(lines, l)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return fmt.Errorf("export %s: %w", l.Key, err)
		}
	}
	return nil
}
