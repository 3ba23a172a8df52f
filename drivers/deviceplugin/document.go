package deviceplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// byteOrderMark is what some editors begin a text with. The plugin cannot read
// it: encoding/json takes none (RFC 8259, section 8.1).
const byteOrderMark = "\ufeff"

// Document is a configuration's text, and where in it is what.
type Document struct {
	text    string
	root    value
	list    *member // nil when there is no list
	entries []entry
}

// entry is one resource of the list.
type entry struct {
	value     value
	prefix    string // "" is the plugin's own
	name      string
	addresses []string
}

// pluginPrefix is what the plugin takes where an entry has no prefix.
const pluginPrefix = "intel.com"

func (e entry) fullName() string {
	if e.prefix == "" {
		return pluginPrefix + "/" + e.name
	}
	return e.prefix + "/" + e.name
}

// value is a JSON value and where its text is.
type value struct {
	from, to int
	kind     byte   // '{', '[', '"', or 0 for all else
	text     string // of a string, or of what is all else
	members  []member
	items    []value
}

// member is a key of an object, and where its text begins.
type member struct {
	name  string
	from  int
	value value
}

func (v value) null() bool { return v.kind == 0 && v.text == "null" }

// problem is what is wrong with a text, and where.
type problem struct {
	line, column int
	what         string
}

func (p problem) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", p.line, p.column, p.what)
}

// at is a problem at an offset of the text.
func at(text string, offset int, format string, args ...any) error {
	before := text[:max(0, min(offset, len(text)))]
	start := strings.LastIndexByte(before, '\n') + 1
	return problem{
		line: strings.Count(before, "\n") + 1, column: utf8.RuneCountInString(before[start:]) + 1,
		what: fmt.Sprintf(format, args...),
	}
}

// Parse reads a configuration as the plugin would, and refuses what could mean
// two things.
func Parse(text string) (*Document, error) {
	if len(text) > host.MaxFile {
		return nil, fmt.Errorf("it has %d bytes: more than %d are not edited", len(text), host.MaxFile)
	}
	if strings.HasPrefix(text, byteOrderMark) {
		return nil, at(text, 0, "it begins with a byte order mark, which the plugin cannot read: save it as UTF-8 without one")
	}
	body := text
	if strings.TrimSpace(body) == "" {
		return nil, at(text, len(text), "it is empty")
	}
	if !utf8.ValidString(body) {
		return nil, at(text, firstInvalid(text), "it is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal([]byte(body), &whole); err != nil {
		offset := len(text)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			offset = len(text) - len(body) + int(max(0, syntax.Offset-1))
		}
		return nil, at(text, offset, "%v", err)
	}
	d := &Document{text: text}
	s := &scanner{text: text, at: len(text) - len(body)}
	d.root = s.value()
	return d, d.read()
}

// Missing is the document of a file that is not there.
func Missing() *Document {
	const text = "{\n  \"" + keyList + "\": []\n}\n"
	d, err := Parse(text)
	if err != nil {
		panic(err) // a constant
	}
	return d
}

func firstInvalid(text string) int {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return i
			}
		}
	}
	return len(text)
}

// scanner walks through a text that is known to be JSON.
type scanner struct {
	text string
	at   int
}

// next skips what is between two values and is the byte that follows.
func (s *scanner) next() byte {
	for strings.IndexByte(" \t\r\n,:", s.text[s.at]) >= 0 {
		s.at++
	}
	return s.text[s.at]
}

func (s *scanner) value() value {
	kind := s.next()
	v := value{from: s.at}
	switch kind {
	case '{':
		v.kind = kind
		for s.at++; s.next() != '}'; {
			m := member{from: s.at}
			m.name = s.quoted()
			m.value = s.value()
			v.members = append(v.members, m)
		}
		s.at++
	case '[':
		v.kind = kind
		for s.at++; s.next() != ']'; {
			v.items = append(v.items, s.value())
		}
		s.at++
	case '"':
		v.kind, v.text = kind, s.quoted()
	default:
		end := strings.IndexAny(s.text[s.at:], " \t\r\n,:]}")
		if end < 0 {
			end = len(s.text) - s.at
		}
		v.text = s.text[s.at : s.at+end]
		s.at += end
	}
	v.to = s.at
	return v
}

// quoted is the string that begins here.
func (s *scanner) quoted() string {
	from := s.at
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] == '\\' {
			s.at++
		}
	}
	s.at++
	var text string
	if err := json.Unmarshal([]byte(s.text[from:s.at]), &text); err != nil {
		panic(err) // it was JSON as a whole
	}
	return text
}

// find is the member that the plugin takes for a key; nil when there is none.
func (d *Document) find(object value, key string) (*member, error) {
	var found *member
	for i := range object.members {
		m := &object.members[i]
		if !strings.EqualFold(m.name, key) {
			continue
		}
		if found != nil {
			return nil, at(d.text, m.from, "key %q is there twice: the plugin takes keys in any case, and one of the two", m.name)
		}
		found = m
	}
	return found, nil
}

// read finds the entries.
func (d *Document) read() (err error) {
	if d.root.kind != '{' {
		return at(d.text, d.root.from, "want an object with %q", keyList)
	}
	if d.list, err = d.find(d.root, keyList); err != nil || d.list == nil || d.list.value.null() {
		return err
	}
	if d.list.value.kind != '[' {
		return at(d.text, d.list.value.from, "%s is no list", keyList)
	}
	for _, item := range d.list.value.items {
		e, err := d.entry(item)
		if err != nil {
			return err
		}
		d.entries = append(d.entries, e)
	}
	return nil
}

func (d *Document) entry(item value) (e entry, err error) {
	if item.kind != '{' {
		return e, at(d.text, item.from, "an entry of %s is no object", keyList)
	}
	for _, key := range entryKeys() {
		if _, err := d.find(item, key); err != nil {
			return e, err
		}
	}
	e.value = item
	if e.name, err = d.string(item, keyName); err != nil {
		return e, err
	}
	if e.prefix, err = d.string(item, keyPrefix); err != nil {
		return e, err
	}
	selectors, err := d.find(item, keySelectors)
	if err != nil || selectors == nil || selectors.value.null() {
		return e, err
	}
	all := []value{selectors.value}
	if selectors.value.kind == '[' {
		all = selectors.value.items
	}
	for _, s := range all {
		addresses, err := d.addresses(s)
		if err != nil {
			return e, err
		}
		e.addresses = append(e.addresses, addresses...)
	}
	return e, nil
}

// string is the text of a key, "" when it is not there.
func (d *Document) string(object value, key string) (string, error) {
	m, err := d.find(object, key)
	switch {
	case err != nil:
		return "", err
	case m == nil || m.value.null():
		return "", nil
	case m.value.kind != '"':
		return "", at(d.text, m.value.from, "%s is no string", key)
	}
	return m.value.text, nil
}

// addresses are the functions that a selector names.
func (d *Document) addresses(selector value) (all []string, err error) {
	if selector.kind != '{' {
		return nil, at(d.text, selector.from, "%s want an object, or a list of objects", keySelectors)
	}
	for _, key := range selectorKeys() {
		if _, err := d.find(selector, key); err != nil {
			return nil, err
		}
	}
	m, err := d.find(selector, keyAddresses)
	if err != nil || m == nil || m.value.null() {
		return nil, err
	}
	if m.value.kind != '[' {
		return nil, at(d.text, m.value.from, "%s is no list", keyAddresses)
	}
	for _, a := range m.value.items {
		if a.kind != '"' {
			return nil, at(d.text, a.from, "an address of %s is no string", keyAddresses)
		}
		all = append(all, sameAddress(a.text))
	}
	return all, nil
}

// ours is the place of the entry that spells out the name; -1 when there is
// none. Two of them mean nothing: the plugin ends when it sees them.
func (d *Document) ours(name string) (int, error) {
	found := -1
	for i, e := range d.entries {
		if e.prefix+"/"+e.name != name {
			continue
		}
		if found >= 0 {
			return -1, at(d.text, e.value.from, "resource %s is there twice", name)
		}
		found = i
	}
	return found, nil
}

// State is the state of the entry with that full name.
func (d *Document) State(name string) (drivers.State, error) {
	i, err := d.ours(name)
	if err != nil || i < 0 {
		return Absent, err
	}
	v := d.entries[i].value
	state, err := canonical(d.text[v.from:v.to])
	if err != nil {
		return "", at(d.text, v.from, "resource %s: %v", name, err)
	}
	return state, nil
}

// Clash says why an entry with that full name and state cannot be beside the
// others; nil when it can.
func (d *Document) Clash(name string, to drivers.State) error {
	if to == Absent {
		return nil
	}
	i, err := d.ours(name)
	if err != nil {
		return err
	}
	wants, err := Parse(`{"` + keyList + `":[` + string(to) + `]}`)
	if err != nil {
		return err
	}
	mine := wants.entries[0].addresses
	if len(mine) == 0 {
		return fmt.Errorf("it names no PCI address, and would take every function that it matches")
	}
	for j, e := range d.entries {
		if j == i {
			continue
		}
		if e.fullName() == name {
			return at(d.text, e.value.from, "resource %s is there already, under the plugin's own prefix", name)
		}
		for _, a := range mine {
			if slices.Contains(e.addresses, a) {
				return at(d.text, e.value.from, "function %s is in resource %s", a, e.fullName())
			}
		}
	}
	return nil
}
