package journal

import "strings"

// form is how the payloads of a format differ from what this agent's records
// marshal to. A nil function means that they do not.
type form struct {
	to, from func(kind uint16, payload []byte) ([]byte, error)
}

// formats are those that this agent reads, format 1 first. The last is the one
// that its records have; whoever adds one gives those before it their forms.
func formats() []form { return []form{{}} }

// codec is the formats that an agent knows, and the one that it writes. A file
// is written in the format that it has: a newer agent changes it by Upgrade
// only, so that an older one can take over again until then.
type codec struct {
	forms []form // nil is formats
	write int    // 0 is the newest
}

func (c codec) known() []form {
	if c.forms == nil {
		return formats()
	}
	return c.forms
}

func (c codec) newest() int { return len(c.known()) }

// writes is the format of what is encoded.
func (c codec) writes() int {
	if c.write == 0 {
		return c.newest()
	}
	return c.write
}

// writing is the codec for a file of that format. A newer file that lets this
// agent in gets the newest that the agent knows.
func (c codec) writing(format int) codec {
	c.write = min(format, c.newest())
	return c
}

// spell brings a marshalled record into a format, read brings it back.
func (c codec) spell(format int, kind uint16, payload []byte) ([]byte, error) {
	if to := c.known()[format-1].to; to != nil {
		return to(kind, payload)
	}
	return payload, nil
}

func (c codec) read(f frame) ([]byte, error) {
	if from := c.known()[f.format-1].from; from != nil {
		return from(f.kind, f.payload)
	}
	return f.payload, nil
}

// isUnknownField recognises the decoder's error, which has no type.
func isUnknownField(err error) bool { return strings.HasPrefix(err.Error(), "json: unknown field") }
