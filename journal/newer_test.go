package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
)

// reseal makes a record that a newer agent would write.
func reseal(bucket, key string, value []byte, change func(header []byte)) []byte {
	b := bytes.Clone(value[:len(value)-crcSize])
	change(b)
	return binary.BigEndian.AppendUint32(b, checksum(bucket, key, b))
}

func TestNewerRecord(t *testing.T) {
	ctx := context.Background()
	p := memoryPlace()
	j := p.open(t)
	a := begin(t, j, 1, "1")
	b := begin(t, j, 2, "1")
	finish(t, j, b.ID, Done)
	ok(t, j.SetDesired(ctx, Desired{Source: "file"}))
	// The newer agent wrote these records, and the manifest that goes with them.
	newer := map[slot][]byte{}
	for _, s := range []slot{{BucketOpen, idKey(a.ID)}, {BucketDone, idKey(1)}, {BucketDesired, "file"}} {
		raw := reseal(s.bucket, s.key, j.raw(s), func(h []byte) { h[2] = 2 })
		_, err := Decode(s.bucket, []byte(s.key), raw)
		wantErr(t, err, ErrNewer)
		newer[s] = raw
		switch s.bucket {
		case BucketOpen:
			j.open.load(s.key, nil, raw)
		case BucketDone:
			j.done.load(s.key, nil, raw)
		default:
			j.desired.load(s.key, nil, raw)
		}
		j.pending.slots[s] = struct{}{}
	}
	ok(t, j.Flush(ctx))
	ok(t, j.Close())

	j = p.open(t, func(o *Options) { o.Limits.Done = 2 })
	if _, degraded := j.Degraded(); degraded {
		t.Fatal("degraded")
	}
	us := j.Unreadable()
	if len(us) != 3 || len(us[0].Targets) != 1 || us[0].Targets[0] != pci(1) {
		t.Fatalf("%+v", us)
	}
	_, err := j.Begin(ctx, operation(1, "1"), nil)
	wantErr(t, err, ErrClaimed)
	wantErr(t, err, ErrNewer)
	wantErr(t, j.SetDesired(ctx, Desired{Source: "file"}), ErrNewer)
	for i := range 6 { // others go on, and the ring turns
		finish(t, j, begin(t, j, 10+i, "1").ID, Done)
	}
	ok(t, j.Close())
	for s, raw := range newer {
		if got, _ := p.mem.get(s.bucket, s.key); !bytes.Equal(got, raw) {
			t.Errorf("%v was changed", s)
		}
	}
	p.open(t)
}

// An operation of which nothing can be told blocks everything.
func TestOpaqueOperationBlocksAll(t *testing.T) {
	p := memoryPlace()
	j := p.open(t)
	key := idKey(77)
	raw := seal(1, BucketOpen, key, kindOperation, []byte("\x01\x02"))
	raw = reseal(BucketOpen, key, raw, func(h []byte) { h[3] = 9 })
	j.nextID = 78
	j.open.load(key, nil, raw)
	j.pending.slots[slot{BucketOpen, key}] = struct{}{}
	ok(t, j.Close())
	j = p.open(t)
	_, err := j.Begin(context.Background(), operation(1, "1"), nil)
	wantErr(t, err, ErrNewer)
}

func TestNewerJournal(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		begin(t, j, 1, "1")
		m := j.Meta()
		m.Format, m.MinReader = 2, 2
		e := &edit{limit: 1 << 20}
		ok(t, put(e, j.meta, keyMeta, &m, 1))
		j.pending.slots[e.slots[0]] = struct{}{}
		ok(t, j.Close())
		refuses(t, p)
	})
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		raw := reseal(BucketMeta, keyMeta, j.meta.raw(keyMeta), func(h []byte) { h[2] = 2 })
		j.meta.load(keyMeta, &Meta{}, raw)
		j.pending.slots[slot{BucketMeta, keyMeta}] = struct{}{}
		ok(t, j.Close())
		refuses(t, p)
		if p.mem != nil {
			return
		}
		// Damaged as well, it is still not replaced.
		flip(t, p.path(), []byte(`"open":{"count"`))
		refuses(t, p)
	})
}

// refuses wants ErrNewer from every way to open, and nothing changed.
func refuses(t *testing.T, p *place) {
	t.Helper()
	before := ""
	if p.mem == nil {
		before = fingerprint(t, p.path())
		_, err := OpenReadOnly(p.path())
		wantErr(t, err, ErrNewer)
		_, err = p.try(scanChild("scan"))
		wantErr(t, err, ErrNewer)
	}
	_, err := p.try()
	wantErr(t, err, ErrNewer)
	if p.mem == nil && fingerprint(t, p.path()) != before {
		t.Fatal("the file was changed")
	}
}
