package deviceplugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// With is the text with the entry of that full name brought to a state. The
// bytes of all else stay.
func (d *Document) With(name string, to drivers.State) (string, error) {
	i, err := d.ours(name)
	if err != nil {
		return "", err
	}
	next := d.text
	switch {
	case to == Absent && i >= 0:
		next = d.without(i)
	case to == Absent:
	case i >= 0:
		v := d.entries[i].value
		next, err = d.splice(v.from, v.to, "", d.layoutAt(v), name, to, "")
	default:
		next, err = d.added(name, to)
	}
	if err != nil {
		return "", err
	}
	return next, verify(next, name, to)
}

// verify reads what was edited: the text goes to disk only when it says what it
// was to say.
func verify(text, name string, to drivers.State) error {
	if len(text) > host.MaxFile {
		return fmt.Errorf("it would have %d bytes: at most %d are written", len(text), host.MaxFile)
	}
	d, err := Parse(text)
	if err != nil {
		return fmt.Errorf("the edited text does not read: %w", err)
	}
	got, err := d.State(name)
	if err != nil || got == to {
		return err
	}
	return fmt.Errorf("the edited text says %.100q", got)
}

// without takes an entry out, and the comma that parted it from its neighbour.
func (d *Document) without(i int) string {
	items := d.list.value.items
	switch {
	case len(items) == 1:
		return d.text[:d.list.value.from] + "[]" + d.text[d.list.value.to:]
	case i == 0:
		return d.text[:items[0].from] + d.text[items[1].from:]
	}
	return d.text[:items[i-1].to] + d.text[items[i].to:]
}

// added puts a new entry at the end of the list, which is made where there is
// none.
func (d *Document) added(name string, to drivers.State) (string, error) {
	if d.list == nil {
		return d.addedList(name, to)
	}
	v := d.list.value
	if len(v.items) == 0 { // [] or null
		l := d.layoutAt(value{from: d.list.from, to: v.to})
		inner := l.in()
		return d.splice(v.from, v.to, "["+inner.breaks(), inner, name, to, l.breaks()+"]")
	}
	last := v.items[len(v.items)-1]
	l := d.layoutAt(last)
	return d.splice(last.to, last.to, ","+d.gap(last, l), l, name, to, "")
}

// gap is the white space before an entry that follows another one.
func (d *Document) gap(last value, l layout) string {
	if lead := d.lead(last.from); strings.Contains(lead, "\n") || !l.lines {
		return lead
	}
	return l.breaks()
}

// addedList puts a list with the entry at the end of the document's object.
func (d *Document) addedList(name string, to drivers.State) (string, error) {
	root := d.root
	key := `"` + keyList + `": [`
	if len(root.members) == 0 {
		l := d.layoutAt(root)
		l.lines = true
		one, two := l.in(), l.in().in()
		return d.splice(root.from, root.to, "{"+one.breaks()+key+two.breaks(), two, name, to, one.breaks()+"]"+l.breaks()+"}")
	}
	last := root.members[len(root.members)-1]
	l := d.layoutAt(value{from: last.from, to: last.value.to})
	inner := l.in()
	end := last.value.to
	return d.splice(end, end, ","+d.lead(last.from)+key+inner.breaks(), inner, name, to, l.breaks()+"]")
}

// splice puts an entry, with what is before and behind it, in the place of some
// bytes.
func (d *Document) splice(from, to int, before string, l layout, name string, state drivers.State, behind string) (string, error) {
	prefix, base, ok := strings.Cut(name, "/")
	if !ok {
		return "", fmt.Errorf("%q is no full name of a resource", name)
	}
	head, err := json.Marshal(map[string]string{keyName: base, keyPrefix: prefix})
	if err != nil {
		return "", err
	}
	entry := strings.TrimSuffix(string(head), "}") + "," + strings.TrimPrefix(string(state), "{")
	if state == "{}" {
		entry = string(head)
	}
	if l.lines {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(entry), l.indent, l.unit); err != nil {
			return "", err
		}
		entry = strings.ReplaceAll(b.String(), "\n", l.newline)
	}
	return d.text[:from] + before + entry + behind + d.text[to:], nil
}

// layout is how the text around a place is laid out.
type layout struct {
	lines   bool // a line each, or all in one
	newline string
	indent  string
	unit    string
}

func (l layout) in() layout {
	l.indent += l.unit
	return l
}

// breaks is a new line and its indentation, where there are lines.
func (l layout) breaks() string {
	if !l.lines {
		return ""
	}
	return l.newline + l.indent
}

// layoutAt is the layout that what stands at a place has: the indentation of
// its line, or of the one it ends on when something else begins its line.
func (d *Document) layoutAt(v value) layout {
	l := layout{newline: "\n", unit: d.unit()}
	if strings.Contains(d.text, "\r\n") {
		l.newline = "\r\n"
	}
	from := v.to
	if lead := d.lead(v.from); strings.Contains(lead, "\n") {
		l.lines, from = true, v.from
	}
	l.lines = l.lines || strings.Contains(d.text[v.from:v.to], "\n")
	line := d.text[strings.LastIndexByte(d.text[:from], '\n')+1:]
	l.indent = line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	return l
}

// lead is the white space before a place.
func (d *Document) lead(from int) string {
	return d.text[len(strings.TrimRight(d.text[:from], " \t\r\n")):from]
}

// unit is what one level is indented by.
func (d *Document) unit() string {
	if len(d.root.members) > 0 {
		lead := d.lead(d.root.members[0].from)
		if i := strings.LastIndexByte(lead, '\n'); i >= 0 && i+1 < len(lead) {
			return lead[i+1:]
		}
	}
	return "  "
}
