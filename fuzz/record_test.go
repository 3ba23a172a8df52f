package fuzz_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"eniagent/journal"
)

// decoder is journal.Decode, or a broken variant of it.
type decoder func(bucket string, key, value []byte) (any, error)

// checkRecord is what must hold whatever the bytes are.
func checkRecord(decode decoder, bucket string, key, value []byte) error {
	before := allocated()
	rec, err := decode(bucket, key, value)
	if grown, most := allocated()-before, uint64(1<<20+256*len(value)); grown > most {
		return fmt.Errorf("%d bytes made it allocate %d", len(value), grown)
	}
	switch {
	case (rec == nil) == (err == nil):
		return fmt.Errorf("record %v and error %w", rec, err)
	case err != nil && !errors.Is(err, journal.ErrCorrupt) && !errors.Is(err, journal.ErrNewer):
		return fmt.Errorf("neither corrupt nor newer: %w", err)
	case err != nil:
		return nil
	}
	again, err := journal.Encode(bucket, key, rec)
	if err != nil {
		return fmt.Errorf("what was decoded cannot be encoded: %w", err)
	}
	// What an older agent wrote may be written in a later format.
	if !bytes.Equal(again, value) && again[2] == value[2] {
		return fmt.Errorf("encodes to %q, was %q", again, value)
	}
	twice, err := decode(bucket, key, again)
	if err != nil || !reflect.DeepEqual(twice, rec) {
		return fmt.Errorf("decodes to %+v and then to %+v (%w)", rec, twice, err)
	}
	if other, err := decode(bucket, append(bytes.Clone(key), 'x'), value); err == nil {
		return fmt.Errorf("is believed under another key: %+v", other)
	}
	return nil
}

// allocated is all that this process ever did.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// recordSeed is one input of FuzzRecord.
type recordSeed struct {
	bucket, key string
	bytes       []byte
	part        byte
}

// Which part of a record the bytes of an input are; the rest is made to fit.
const (
	payloadOnly = iota
	allButSum
	whole
	parts
)

func (s recordSeed) value() []byte {
	switch s.part % parts {
	case payloadOnly:
		return seal(s.bucket, s.key, kindOf(s.bucket, s.key), s.bytes)
	case allButSum:
		return checksummed(s.bucket, s.key, s.bytes)
	}
	return s.bytes
}

// recordSeeds are the golden records, and each of them spoilt behind a good
// checksum in the ways that JSON has.
func recordSeeds(t testing.TB) []recordSeed {
	var seeds []recordSeed
	for place, raw := range golden(t) {
		bucket, key, payload := place[0], place[1], payloadOf(raw)
		add := func(p []byte) { seeds = append(seeds, recordSeed{bucket, key, p, payloadOnly}) }
		add(payload)
		add(append(bytes.Clone(payload), ' '))
		add(append(bytes.Clone(payload), '{', '}'))
		add(bytes.Replace(payload, []byte("{"), []byte(`{"x":1,`), 1))
		add(bytes.ReplaceAll(payload, []byte(`"`), []byte(`\u0022`)))
		add(payload[:len(payload)/2])
		add([]byte("null"))
		add([]byte(strings.Repeat("[", 20000)))
		for _, swap := range [][2]string{
			{"0000:", "zzzz:"},
			{"volatile", "x"},
			{":1,", ":-1,"},
			{":1,", ":1e9,"},
			{"intent", "done"},
			{"T0", "T9"},
			{"2026", "99999"},
			{"driver", "mtu"},
			{`"format":1`, `"format":0`},
			{`"count":1`, `"count":-1`},
			{`"sequence":`, `"sequence":-`},
			{`"keys":[`, `"keys":[[`},
			{"config", "\xff"},
		} {
			if p := bytes.Replace(payload, []byte(swap[0]), []byte(swap[1]), 1); !bytes.Equal(p, payload) {
				add(p)
			}
		}
		for _, p := range spoilt(payload) {
			add(p)
		}
		bend := func(part byte, change func(b []byte) []byte) {
			b := bytes.Clone(raw)
			if part == allButSum {
				b = b[:len(b)-envelopeTail]
			}
			seeds = append(seeds, recordSeed{bucket, key, change(b), part})
		}
		for _, part := range []byte{allButSum, whole} {
			bend(part, func(b []byte) []byte { return b })
			bend(part, func(b []byte) []byte { return b[:len(b)-1] })
			bend(part, func(b []byte) []byte { return append(b, 0) })
			for i := range envelopeHead {
				bend(part, func(b []byte) []byte { b[i] ^= 1; return b })
			}
			bend(part, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
			bend(part, func(b []byte) []byte { return b[:envelopeHead-1] })
		}
		add([]byte(`"` + strings.Repeat("x", 1<<20+1<<16) + `"`))
		for _, kind := range []uint16{1, 5} {
			seeds = append(seeds, recordSeed{bucket, key, seal(bucket, key, kind, payload), whole}, recordSeed{"nowhere", key, seal("nowhere", key, kind, payload), whole})
		}
		newer := seal(bucket, key, 77, payload)
		seeds = append(seeds, recordSeed{bucket, key, newer, whole}, recordSeed{bucket, key, nil, whole})
	}
	return append(seeds, recordSeed{"nowhere", "k", []byte("{}"), payloadOnly}, recordSeed{journal.BucketMeta, "nothing", []byte("{}"), payloadOnly})
}

var (
	jsonField = regexp.MustCompile(`(?:":|\[)("[^"]*"|-?[0-9]+|true)`)
	jsonList  = regexp.MustCompile(`\[(\{[^\[\]]*\}|"[^"\[\]]*")\]`)
	jsonKey   = regexp.MustCompile(`[{,]"([^"]*)":\{`)
)

// spoilt is a payload with each field in turn not what it should be, each list
// empty and doubled, and each key of a map another one.
func spoilt(payload []byte) (all [][]byte) {
	replace := func(at []int, with string) {
		all = append(all, slices.Concat(payload[:at[2]], []byte(with), payload[at[3]:]))
	}
	for _, at := range jsonField.FindAllSubmatchIndex(payload, -1) {
		for _, n := range []int{0, 300, 5000} {
			replace(at, `"`+strings.Repeat("x", n)+`"`)
		}
		for _, with := range []string{"\"\xff\"", "-1", "0", "2", "1073741825", "null", "[]", "{}", `"0001-01-01T00:00:00Z"`, `"0000-01-01T00:00:00Z"`, `"volatile"`, `"intent"`, `"x@y"`} {
			replace(at, with)
		}
	}
	for _, at := range jsonList.FindAllSubmatchIndex(payload, -1) {
		item := string(payload[at[2]:at[3]])
		replace(at, item+","+item)
		replace(at, strings.Repeat(item+",", 40)+item)
		replace(at, "")
	}
	for _, at := range jsonKey.FindAllSubmatchIndex(payload, -1) {
		for _, with := range []string{"", "x", strings.Repeat("x", 300)} {
			replace(at, with)
		}
	}
	return all
}

// FuzzRecord: no bytes make the decoder panic, allocate without bound, or
// believe what it would not write itself.
func FuzzRecord(f *testing.F) {
	for _, s := range recordSeeds(f) {
		f.Add(s.bucket, s.key, s.bytes, s.part)
	}
	f.Fuzz(func(t *testing.T, bucket, key string, b []byte, part byte) {
		s := recordSeed{bucket, key, b, part}
		if err := checkRecord(journal.Decode, bucket, []byte(key), s.value()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBrokenDecodersAreCaught holds the seeds against decoders that leave one
// thing out.
func TestBrokenDecodersAreCaught(t *testing.T) {
	// reseal makes a record of another place, or of other bytes, look right.
	reseal := func(bucket string, key, value []byte, change func([]byte) []byte) (any, error) {
		if len(value) < envelopeHead+envelopeTail {
			return journal.Decode(bucket, key, value)
		}
		return journal.Decode(bucket, key, seal(bucket, string(key), kindOf(bucket, string(key)), change(payloadOf(value))))
	}
	same := func(b []byte) []byte { return b }
	for name, decode := range map[string]decoder{
		"no checksum, no header": func(bucket string, key, value []byte) (any, error) { return reseal(bucket, key, value, same) },
		"no check of what follows": func(bucket string, key, value []byte) (any, error) {
			return reseal(bucket, key, value, func(b []byte) []byte { return bytes.TrimRight(b, " ") })
		},
		"no check of the length": func(bucket string, key, value []byte) (any, error) {
			return journal.Decode(bucket, key, bytes.TrimRight(value, "\x00"))
		},
		"the key is not in the checksum": func(bucket string, key, value []byte) (any, error) {
			if rec, err := journal.Decode(bucket, bytes.TrimRight(key, "x"), value); err == nil {
				return rec, nil
			}
			return journal.Decode(bucket, key, value)
		},
		"a record and an error": func(bucket string, key, value []byte) (any, error) {
			rec, err := journal.Decode(bucket, key, value)
			if err != nil {
				return &journal.Operation{}, err
			}
			return rec, nil
		},
		"memory as the header says": func(bucket string, key, value []byte) (any, error) {
			if len(value) > envelopeHead {
				runtime.KeepAlive(make([]byte, 64<<20))
			}
			return journal.Decode(bucket, key, value)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range recordSeeds(t) {
				if checkRecord(decode, s.bucket, []byte(s.key), s.value()) != nil {
					return
				}
			}
			t.Error("no seed finds it")
		})
	}
}
