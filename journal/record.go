package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"eniagent/drivers"
)

// The buckets, drawn in the package's documentation.
const (
	BucketMeta       = "meta"
	BucketOpen       = "open"
	BucketQuarantine = "quarantine"
	BucketDone       = "done"
	BucketFailures   = "failures"
	BucketBaseline   = "baseline"
	BucketDesired    = "desired"
	BucketControl    = "control"
)

// The keys of the meta bucket.
const (
	keyMeta     = "journal"
	keyManifest = "manifest"
	keyDegraded = "degraded"
)

// buckets are all of them, in the order in which they are read and exported.
func buckets() []string {
	return []string{
		BucketMeta, BucketOpen, BucketQuarantine, BucketDone,
		BucketFailures, BucketBaseline, BucketDesired, BucketControl,
	}
}

// record is what has rules of its own; all of them are pointers.
type record interface{ validate() error }

// blank is an empty record of the kind that belongs under a key, and the most
// bytes one may have.
func blank(bucket, key string) (record, uint16, int, error) {
	switch bucket {
	case BucketOpen, BucketQuarantine, BucketDone:
		return new(Operation), kindOperation, maxOperation, nil
	case BucketFailures:
		return new(Failure), kindFailure, maxOperation, nil
	case BucketBaseline:
		return new(Baseline), kindBaseline, maxRecord, nil
	case BucketDesired:
		return new(Desired), kindDesired, maxDesired, nil
	case BucketControl:
		return new(Control), kindControl, maxOperation, nil
	}
	switch bucket + "/" + key {
	case BucketMeta + "/" + keyMeta:
		return new(Meta), kindMeta, maxRecord, nil
	case BucketMeta + "/" + keyManifest:
		return new(Manifest), kindManifest, maxRecord, nil
	case BucketMeta + "/" + keyDegraded:
		return new(Degradation), kindDegraded, maxRecord, nil
	}
	return nil, 0, 0, fmt.Errorf("no record belongs into %s under %q: %w", bucket, key, ErrInvalid)
}

// belongs says whether a record is where a reader would look for it.
func belongs(bucket, key string, r record) bool {
	switch r := r.(type) {
	case *Operation:
		switch bucket {
		case BucketOpen:
			return r.State.Open() && key == idKey(r.ID)
		case BucketQuarantine:
			return r.State == Quarantined && key == idKey(r.ID)
		default:
			return r.State.Closed() && len(key) == 8
		}
	case *Failure:
		return key == r.Fingerprint
	case *Baseline:
		return key == r.Key.String()
	case *Desired:
		return key == r.Source
	case *Control:
		return key == r.Name()
	}
	return true
}

// idKey is a number as a key that sorts as the number does.
func idKey(id uint64) string { return string(binary.BigEndian.AppendUint64(nil, id)) }

// plainKey is a key as text: numbers in digits.
func plainKey(bucket, key string) string {
	switch bucket {
	case BucketOpen, BucketQuarantine, BucketDone:
		if len(key) == 8 {
			return strconv.FormatUint(binary.BigEndian.Uint64([]byte(key)), 10)
		}
	}
	return key
}

// keyText is a place in the journal, for people.
func keyText(bucket, key string) string {
	text := plainKey(bucket, key)
	if len(text) > maxName || strings.Trim(text, plainBytes) != "" {
		text = strconv.Quote(shorten(text))
	}
	return bucket + "/" + text
}

// plainBytes need no quotes.
const plainBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@:./_#-"

// marshal is the only JSON of a record: compact, no HTML escapes, no newline.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// encode checks a record and makes its bytes.
func (c codec) encode(bucket, key string, r record) ([]byte, error) {
	_, kind, limit, err := blank(bucket, key)
	if err != nil {
		return nil, err
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", keyText(bucket, key), err)
	}
	if !belongs(bucket, key, r) {
		return nil, fmt.Errorf("encode %s: record does not belong there: %w", keyText(bucket, key), ErrInvalid)
	}
	payload, err := marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w: %w", keyText(bucket, key), ErrInvalid, err)
	}
	if payload, err = c.spell(c.writes(), kind, payload); err != nil {
		return nil, fmt.Errorf("encode %s in format %d: %w", keyText(bucket, key), c.writes(), err)
	}
	if n := headerSize + len(payload) + crcSize; n > limit {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d: %w", keyText(bucket, key), n, limit, ErrInvalid)
	}
	return seal(c.writes(), bucket, key, kind, payload), nil
}

// Decode reads a record as every path reads it: *Operation, *Failure,
// *Baseline, *Desired, *Control, *Meta, *Manifest or *Degradation. It returns
// a record or an error, never both: ErrNewer when a newer agent wrote it,
// ErrCorrupt for everything else, a good checksum around nonsense included.
func Decode(bucket string, key, value []byte) (any, error) {
	return codec{}.decode(bucket, string(key), value)
}

// DecodeOperation is Decode for the buckets that hold operations.
func DecodeOperation(bucket string, key, value []byte) (*Operation, error) {
	r, err := codec{}.decode(bucket, string(key), value)
	if err != nil {
		return nil, err
	}
	o, ok := r.(*Operation)
	if !ok {
		return nil, fmt.Errorf("decode %s: not an operation: %w", keyText(bucket, string(key)), ErrCorrupt)
	}
	return o, nil
}

// Encode makes the bytes of a record that Decode returned.
func Encode(bucket string, key []byte, r any) ([]byte, error) {
	rec, ok := r.(record)
	if !ok {
		return nil, fmt.Errorf("encode %T: %w", r, ErrInvalid)
	}
	return codec{}.encode(bucket, string(key), rec)
}

func (c codec) decode(bucket, key string, value []byte) (record, error) {
	r, err := c.decodeRecord(bucket, key, value)
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, ErrNewer), errors.Is(err, ErrCorrupt):
		return nil, fmt.Errorf("decode %s: %w", keyText(bucket, key), err)
	default:
		return nil, fmt.Errorf("decode %s: %w: %w", keyText(bucket, key), ErrCorrupt, err)
	}
}

func (c codec) decodeRecord(bucket, key string, value []byte) (record, error) {
	f, err := c.unseal(bucket, key, value)
	if err != nil {
		return nil, err
	}
	r, kind, limit, err := blank(bucket, key)
	if err != nil {
		return nil, err
	}
	if f.kind != kind {
		return nil, fmt.Errorf("record of kind %d, want %d: %w", f.kind, kind, ErrCorrupt)
	}
	if len(value) > limit {
		return nil, fmt.Errorf("record of %d bytes, at most %d: %w", len(value), limit, ErrCorrupt)
	}
	payload, err := c.read(f)
	if err != nil {
		return nil, err
	}
	if err := parse(payload, r); err != nil {
		return nil, err
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	if !belongs(bucket, key, r) {
		return nil, errors.New("record does not belong there")
	}
	return r, c.canonical(f, r)
}

// parse reads a payload into a blank record. A field that this agent does not
// know is no damage as long as all others are sound: a newer agent of the same
// format added it, and whoever wrote the record back would drop it.
func parse(payload []byte, r record) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	err := d.Decode(r)
	if err != nil && isUnknownField(err) && json.Unmarshal(payload, r) == nil {
		return fmt.Errorf("%w: %w", err, ErrNewer)
	}
	return err
}

// canonical wants the one spelling that a record has. This refuses trailing
// data, doubled fields, fields in another case and unsorted maps in one stroke.
func (c codec) canonical(f frame, r record) error {
	again, err := marshal(r)
	if err != nil {
		return err
	}
	if again, err = c.spell(int(f.format), f.kind, again); err != nil {
		return err
	}
	if !bytes.Equal(again, f.payload) {
		return errors.New("record is not in its canonical form")
	}
	return nil
}

// The checks that records share.

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkText(what, s string, least, most int) error {
	switch {
	case len(s) < least:
		return fmt.Errorf("%s is empty: %w", what, ErrInvalid)
	case len(s) > most:
		return fmt.Errorf("%s of %d bytes, at most %d: %w", what, len(s), most, ErrInvalid)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not UTF-8: %w", what, ErrInvalid)
	}
	return nil
}

// checkTime wants what JSON brings back unchanged.
func checkTime(what string, t time.Time) error {
	if y := t.Year(); y < 1 || y > 9999 {
		return fmt.Errorf("%s in the year %d: %w", what, y, ErrInvalid)
	}
	return nil
}

func checkClass(c drivers.Class) error {
	if c != drivers.Volatile && c != drivers.Persistent {
		return fmt.Errorf("class %q: %w", c, ErrInvalid)
	}
	return nil
}

func checkTarget(t drivers.Target) error {
	if !t.Valid() {
		return fmt.Errorf("target %q: %w", t, ErrInvalid)
	}
	return checkText("target", string(t), 1, maxText)
}

func checkKey(k drivers.Key) error {
	if !isName(string(k.Kind)) {
		return fmt.Errorf("kind %q: want lower-case letters, digits, '.', '-' and '_': %w", k.Kind, ErrInvalid)
	}
	return checkTarget(k.Target)
}

func checkIdentity(id drivers.Identity) error {
	if id.PF != "" {
		if err := checkTarget(id.PF); err != nil {
			return err
		}
	}
	return firstError(
		checkText("vendor", id.Vendor, 0, maxName),
		checkText("device", id.Device, 0, maxName),
		checkText("subsystem", id.Subsystem, 0, maxName),
		checkText("mac", id.MAC, 0, maxName),
		checkText("eni", id.ENI, 0, maxName),
	)
}

// isName says whether s can be a kind or an action.
func isName(s string) bool {
	if s == "" || len(s) > 64 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// stamp is a time as JSON brings it back.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// clip makes a text of any origin fit a record.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText-3], "") + "..."
}
