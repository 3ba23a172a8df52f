package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

// The frame around every record, in network byte order:
//
//	"EA" | format u8 | codec u8 | kind u16 | length u32 | payload | CRC32C u32
//
// The CRC is over bucket, NUL, key, NUL, header and payload, so that a record
// that a damaged page shows under another key is not believed. The frame never
// changes: a later format changes the payload, and is told from damage by a
// CRC that holds. Within a format, fields are only added (see doc.go).
const (
	magic      = "EA"
	codecJSON  = 1
	headerSize = 10
	crcSize    = 4
)

// What a payload is.
const (
	kindMeta uint16 = iota + 1
	kindManifest
	kindDegraded
	kindOperation
	kindFailure
	kindBaseline
	kindDesired
	kindControl
	kindEnd // the first number that this agent does not know
)

// frame is what an envelope says of its payload.
type frame struct {
	format, codec uint8
	kind          uint16
	payload       []byte
}

// seal puts a payload into its envelope.
func seal(format int, bucket, key string, kind uint16, payload []byte) []byte {
	b := make([]byte, 0, headerSize+len(payload)+crcSize)
	b = append(b, magic...)
	b = append(b, byte(format), codecJSON)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	return binary.BigEndian.AppendUint32(b, checksum(bucket, key, b))
}

// unseal checks the envelope. The frame is returned with ErrNewer too, for
// whoever wants to know what the record was about.
func (c codec) unseal(bucket, key string, b []byte) (frame, error) {
	if len(b) < headerSize+crcSize || string(b[:2]) != magic {
		return frame{}, fmt.Errorf("%d bytes that are no record: %w", len(b), ErrCorrupt)
	}
	n := binary.BigEndian.Uint32(b[6:])
	if uint64(n) != uint64(len(b)-headerSize-crcSize) {
		return frame{}, fmt.Errorf("record of %d bytes says it has %d: %w", len(b), n, ErrCorrupt)
	}
	body := b[:len(b)-crcSize]
	if binary.BigEndian.Uint32(b[len(body):]) != checksum(bucket, key, body) {
		return frame{}, fmt.Errorf("record checksum does not match: %w", ErrCorrupt)
	}
	f := frame{format: b[2], codec: b[3], kind: binary.BigEndian.Uint16(b[4:]), payload: body[headerSize:]}
	if f.format == 0 || int(f.format) > c.newest() || f.codec != codecJSON || f.kind == 0 || f.kind >= kindEnd {
		return f, fmt.Errorf("record of format %d, codec %d, kind %d: %w", f.format, f.codec, f.kind, ErrNewer)
	}
	return f, nil
}

func checksum(bucket, key string, body []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0, t, []byte(bucket+"\x00"+key+"\x00"))
	return crc32.Update(c, t, body)
}

// digestSize is what is kept of a SHA-256.
const (
	digestSize   = 16
	digestLength = 2 * digestSize // as hex
)

// digest is an order-independent sum over records: each record's hash, xored.
// It can be kept up to date at the price of the records that change, and it
// notices what a CRC cannot: a record that is gone.
type digest [digestSize]byte

func digestRecord(key string, value []byte) digest {
	var b bytes.Buffer
	b.Grow(len(key) + 1 + len(value))
	b.WriteString(key)
	b.WriteByte(0)
	b.Write(value)
	sum := sha256.Sum256(b.Bytes())
	return digest(sum[:digestSize])
}

func (d *digest) toggle(o digest) {
	for i := range d {
		d[i] ^= o[i]
	}
}

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// digestText is a short name for a long text.
func digestText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:digestSize])
}
