package entry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
)

const (
	apiVersion = "eniagent/v1alpha1"
	// MaxSize is how many bytes a document may have.
	MaxSize = 1 << 20
	// MaxKept is how many bytes the entries of a document may have as JSON, which is
	// how the journal keeps them; the rest of what it takes (512 KiB) is for entries
	// of an earlier document that stay in force.
	MaxKept = 384 << 10
	// maxInterfaces is what the journal keeps in any case, and more than a node has.
	maxInterfaces = 2048

	explicit = "nothing is given back by leaving it out: write \"state: released\" for an interface to release"
)

// Document reads the text of a file. The path is for messages only. An error
// holds every problem of the file, each a *source.Problem.
func Document(path string, data []byte) ([]source.Interface, error) {
	p := newParser("interfaces")
	list := p.document(data)
	p.kept(list)
	if err := p.problems.err(path); err != nil {
		return nil, err
	}
	return list, nil
}

// kept wants what the journal can keep: what it cannot would never be acted on.
func (p *parser) kept(list []source.Interface) {
	text, err := json.Marshal(list)
	if err == nil && len(text) > MaxKept {
		p.problems.add(0, "interfaces", nil, fmt.Sprintf(
			"%d entries take %d bytes in the journal: want at most %d; leave out what this node does not have, and shorten reasons and names", len(list), len(text), MaxKept))
	}
}

type parser struct {
	problems problems
	at       string           // the path of the list
	macs     map[string]place // of virtual functions
}

func newParser(at string) *parser { return &parser{at: at, macs: map[string]place{}} }

// place is where something was said: on a line of a text, or at a path where
// there are no lines.
type place struct {
	line int
	path string
}

func (p place) String() string {
	if p.line > 0 {
		return fmt.Sprintf("on line %d", p.line)
	}
	return "at " + p.path
}

// document reads the whole text.
func (p *parser) document(data []byte) []source.Interface {
	root := p.root(data)
	if root == nil {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		p.problems.add(root.Line, "", root, "want a mapping with apiVersion and interfaces")
		return nil
	}
	fields, meant := p.fields(root, "", []string{"apiVersion", "interfaces"})
	version, found := fields["apiVersion"]
	switch {
	case found:
		p.version(version)
	case !meant["apiVersion"]:
		p.problems.add(root.Line, "apiVersion", nil, "missing; write \"apiVersion: "+apiVersion+"\"")
	}
	interfaces, found := fields["interfaces"]
	switch {
	case found:
		return p.interfaces(interfaces)
	case !meant["interfaces"]:
		p.problems.add(root.Line, "interfaces", nil, "missing; "+explicit)
	}
	return nil
}

// root is the value of the only document, nil after a problem.
func (p *parser) root(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		p.problems.add(0, "", nil, fmt.Sprintf("%d bytes: want at most %d", len(data), MaxSize))
		return nil
	}
	if !utf8.Valid(data) {
		p.problems.add(badUTF8(data), "", nil, "not UTF-8 text; save the file as UTF-8")
		return nil
	}
	var documents []yaml.Node
	if err := yaml.Load(data, &documents, yaml.WithAllDocuments()); err != nil {
		p.syntax(data, err)
		return nil
	}
	switch {
	case len(documents) > 1:
		p.problems.add(documents[1].Line, "", nil, "a second YAML document; keep one, without \"---\" between")
		return nil
	case len(documents) == 0, len(documents[0].Content) == 0, null(documents[0].Content[0]):
		p.problems.add(0, "", nil, "empty; "+explicit)
		return nil
	}
	return documents[0].Content[0]
}

// badUTF8 is the line of the first byte that is not UTF-8.
func badUTF8(data []byte) int {
	valid := 0
	for valid < len(data) {
		r, n := utf8.DecodeRune(data[valid:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		valid += n
	}
	return 1 + bytes.Count(data[:valid], []byte("\n"))
}

// syntax puts the YAML library's complaint into our form.
func (p *parser) syntax(data []byte, err error) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		p.problems.add(0, "", nil, "not YAML: "+err.Error())
		return
	}
	reason := le.Message
	if le.ContextMsg != "" {
		reason += " " + le.ContextMsg
	}
	if at := le.ContextMark.Line; at > 0 && at != le.Mark.Line {
		reason += fmt.Sprintf(" that began on line %d", at)
	}
	// The library calls this "a character that cannot start any token".
	if strings.HasPrefix(strings.TrimLeft(line(data, le.Mark.Line), " "), "\t") {
		reason = "a tab; indent with spaces"
	}
	// What ends too early is found on the line after the last.
	last := 1 + bytes.Count(data, []byte("\n"))
	p.problems.add(min(le.Mark.Line, last), "", nil, "not YAML: "+reason)
}

// line is the text of a line, counted from 1; "" when there is none.
func line(data []byte, number int) string {
	for n := 1; number > 0; n++ {
		text, rest, more := bytes.Cut(data, []byte("\n"))
		if n == number {
			return string(text)
		}
		if !more {
			break
		}
		data = rest
	}
	return ""
}

// field is one key of a mapping with its value.
type field struct {
	line  int
	value *yaml.Node
}

// fields are the known fields of a mapping. Whatever else it holds is a
// problem; meant has the known fields that a misspelt one stood for, so that
// they are not called missing as well.
func (p *parser) fields(m *yaml.Node, path string, known []string) (found map[string]field, meant map[string]bool) {
	found, meant = map[string]field{}, map[string]bool{}
	legal := map[string]bool{}
	for _, k := range known {
		legal[k] = true
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		first, twice := found[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.problems.add(key.Line, path, key, "as a field's name; want one of "+strings.Join(known, ", "))
		case key.ShortTag() == "!!merge":
			p.problems.add(key.Line, path, key, "merge keys are not read; write the fields out")
		case !legal[key.Value]:
			hint := nearest(key.Value, known)
			meant[hint] = true
			p.problems.add(key.Line, path, key, unknown(hint, known))
		case twice:
			p.problems.add(key.Line, join(path, key.Value), nil, fmt.Sprintf("given twice, first %s; remove one", place{first.line, join(path, key.Value)}))
		default:
			found[key.Value] = field{line: key.Line, value: value}
		}
	}
	delete(meant, "")
	return found, meant
}

func unknown(hint string, known []string) string {
	if hint != "" {
		return "unknown field; did you mean " + hint + "?"
	}
	return "unknown field; want one of " + strings.Join(known, ", ")
}

// join is the path of a field below path.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func null(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func (p *parser) version(f field) {
	if n, ok := scalar(f.value); !ok || n.Value != apiVersion {
		p.problems.add(f.line, "apiVersion", f.value, "want "+apiVersion)
	}
}

// interfaces reads the list. The entries keep their order.
func (p *parser) interfaces(f field) []source.Interface {
	switch {
	case null(f.value) || f.value.Kind == yaml.SequenceNode && len(f.value.Content) == 0:
		p.problems.add(f.line, p.at, nil, "empty; "+explicit)
		return nil
	case f.value.Kind != yaml.SequenceNode:
		p.problems.add(f.line, p.at, f.value, "want a list of interfaces, each starting with \"- \"")
		return nil
	case len(f.value.Content) > maxInterfaces:
		p.problems.add(f.line, p.at, nil, fmt.Sprintf("%d of them; want at most %d, one for each function of the node", len(f.value.Content), maxInterfaces))
		return nil
	}
	var list []source.Interface
	places := map[source.Selector]place{}
	for i, n := range f.value.Content {
		path := fmt.Sprintf("%s[%d]", p.at, i)
		entry, ok := p.entry(n, path)
		if !ok {
			continue
		}
		if first, twice := places[entry.Selector]; twice {
			reason := fmt.Sprintf("%s is %s already; merge the two entries", entry.Selector, first)
			p.problems.add(n.Line, path, nil, reason)
			continue
		}
		places[entry.Selector] = place{n.Line, path}
		list = append(list, entry)
	}
	if len(list) == len(f.value.Content) { // else the indexes are others
		p.oneDriver(list, places)
	}
	return list
}
