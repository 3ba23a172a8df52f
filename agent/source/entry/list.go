package entry

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
)

// List reads a list of entries that is in an object of an API, as JSON; path is
// where in the object. There are problems, or there is at least one entry.
func List(path string, data []byte) ([]source.Interface, []*source.Problem) {
	p := newParser(path)
	n := p.node(data)
	if n == nil {
		return nil, p.problems
	}
	list := p.interfaces(field{value: n})
	if len(p.problems) > 0 {
		return nil, p.problems[:min(len(p.problems), maxProblems)]
	}
	return list, nil
}

// node is a list in JSON as a file's would be read, without lines; nil after a
// problem.
func (p *parser) node(data []byte) *yaml.Node {
	switch {
	case len(data) > MaxSize:
		p.problems.add(0, p.at, nil, "too much to be read; make several objects of it")
		return nil
	case len(data) > 0 && !json.Valid(data): // this bounds the nesting too
		p.problems.add(0, p.at, nil, "not JSON; write a list of interfaces")
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n := value(d)
	if null(n) || n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.problems.add(0, p.at, nil, "empty; to give interfaces back, delete the object or write \"state: released\" for each")
		return nil
	}
	return n
}

// value is the next value of JSON that is known to be valid.
func value(d *json.Decoder) *yaml.Node {
	token, err := d.Token()
	if err != nil {
		return plain("!!null", "null")
	}
	switch v := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if v == '{' {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		}
		for d.More() { // of a mapping, keys and values in turn
			n.Content = append(n.Content, value(d))
		}
		_, _ = d.Token() // its end
		return n
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v, Style: yaml.DoubleQuotedStyle}
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return plain("!!float", v.String())
		}
		return plain("!!int", v.String())
	case bool:
		if v {
			return plain("!!bool", "true")
		}
		return plain("!!bool", "false")
	}
	return plain("!!null", "null")
}

func plain(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}
