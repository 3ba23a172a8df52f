package fuzz_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/deviceplugin"
)

const fuzzedPool = "example.com/ours"

// FuzzPool: whatever a configuration of the device plugin looks like, an edit
// of one entry of it is refused or leaves all other bytes, and what was written
// reads as it was meant.
func FuzzPool(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"resourceList":null}`, "{\n  \"resourceList\": []\n}\n", "\ufeff{\r\n\t\"resourceList\": [ ]\r\n}\r\n", `{"x":1}`,
		`{"resourceList":[{"resourceName":"a","selectors":{"pciAddresses":["0000:3b:00.1"]}},{"resourceName":"b","selectors":[{"vendors":["8086"]}]}]}`,
		`{"resourceList":[{"resourceName":"ours","resourcePrefix":"example.com","selectors":[{"pciAddresses":["0000:01:10.0"]}],"x":1}]}`,
		`{"resourceList":[{"resourceName":"a"} , {"ResourceName":"ours","resourceprefix":"example.com"}, {}],"more":[1e5,"\ud83d\ude00"]}`,
		`{"resourceList":[{"resourceName":"a"},{"resourceName":"a"}],"resourcelist":[]}`, "", "{", "[]", "{\"resourceList\": [{\n", "\xff",
	} {
		f.Add(text, uint8(1))
		f.Add(text, uint8(0))
	}
	f.Fuzz(func(t *testing.T, text string, functions uint8) {
		if err := checkPool(deviceplugin.Parse, text, poolState(functions)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// poolState is so many functions, none being no entry.
func poolState(functions uint8) drivers.State {
	var addresses []string
	for i := range functions % 4 {
		addresses = append(addresses, fmt.Sprintf("0000:01:10.%d", i))
	}
	if len(addresses) == 0 {
		return deviceplugin.Absent
	}
	to, err := deviceplugin.Pool{Addresses: addresses}.State()
	if err != nil {
		panic(err)
	}
	return to
}

// edited is what checkPool needs of a document.
type edited interface {
	State(name string) (drivers.State, error)
	With(name string, to drivers.State) (string, error)
	Clash(name string, to drivers.State) error
}

func checkPool[D edited](parse func(string) (D, error), text string, to drivers.State) error {
	d, err := parse(text)
	if err != nil {
		return nil // refused, and nothing is written
	}
	was, err := d.State(fuzzedPool)
	if err != nil {
		return nil // so here
	}
	target := drivers.Target("file//etc/pcidp/config.json#" + fuzzedPool)
	if err := all.Specs().Legal(drivers.Key{Kind: deviceplugin.Kind, Target: target}, was); err != nil {
		return fmt.Errorf("what is there could not be brought back: %w", err)
	}
	_ = d.Clash(fuzzedPool, to)
	next, err := d.With(fuzzedPool, to)
	if err != nil {
		return nil // so here
	}
	if was == to && next != text && to == deviceplugin.Absent {
		return fmt.Errorf("nothing was to be done, and it became %q", next)
	}
	before, err := notOurs(text)
	if err != nil {
		return fmt.Errorf("what was edited is no configuration: %w", err)
	}
	after, err := notOurs(next)
	if err != nil {
		return fmt.Errorf("%q is no configuration: %w", next, err)
	}
	if !bytes.Equal(before, after) {
		return fmt.Errorf("what is not ours became\n%s, was\n%s, in %q", after, before, next)
	}
	back, err := parse(next)
	if err != nil {
		return fmt.Errorf("%q does not read: %w", next, err)
	}
	if got, err := back.State(fuzzedPool); err != nil || got != to {
		return fmt.Errorf("%q says %q (%w), want %q", next, got, err, to)
	}
	// And back to what was there: the before-image has all of it.
	restored, err := back.With(fuzzedPool, was)
	if err != nil {
		return fmt.Errorf("%q back: %w", next, err)
	}
	if again, err := parse(restored); err != nil {
		return fmt.Errorf("%q does not read: %w", restored, err)
	} else if got, err := again.State(fuzzedPool); err != nil || got != was {
		return fmt.Errorf("%q says %q (%w), want %q", restored, got, err, was)
	}
	return nil
}

// notOurs is what the plugin reads of a configuration besides our entry: the
// entries as they are spelled, and all other keys. A list that is not there is
// an empty one.
func notOurs(text string) ([]byte, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "\ufeff")), &whole); err != nil {
		return nil, err
	}
	var list struct{ ResourceList []json.RawMessage }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "\ufeff")), &list); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, entry := range list.ResourceList {
		var named struct{ ResourcePrefix, ResourceName string }
		if err := json.Unmarshal(entry, &named); err != nil {
			return nil, err
		}
		if named.ResourcePrefix+"/"+named.ResourceName != fuzzedPool {
			fmt.Fprintf(&b, "entry %s\n", entry)
		}
	}
	for key := range whole {
		if strings.EqualFold(key, "resourceList") {
			delete(whole, key)
		}
	}
	rest, err := json.Marshal(whole)
	b.Write(rest)
	return b.Bytes(), err
}

// marshaled is an editor that decodes all of a configuration and encodes it anew.
type marshaled struct {
	*deviceplugin.Document
	lose string
}

func (m marshaled) With(name string, to drivers.State) (string, error) {
	text, err := m.Document.With(name, to)
	return strings.ReplaceAll(text, m.lose, ""), err
}

func TestBrokenPoolEditorsAreCaught(t *testing.T) {
	const text = `{"resourceList":[{"resourceName":"a", "selectors":{"vendors":["8086"]}}],"more":true}`
	for name, lose := range map[string]string{
		"a key is lost": `,"more":true`, "a selector is lost": `"vendors":["8086"]`, "space is lost": " ",
		"our entry is lost": `{"resourceName":"ours","resourcePrefix":"example.com","selectors":[{"pciAddresses":["0000:01:10.0"]}]}`,
		"a comma is lost":   "},",
	} {
		parse := func(s string) (marshaled, error) {
			d, err := deviceplugin.Parse(s)
			return marshaled{d, lose}, err
		}
		if checkPool(parse, text, poolState(1)) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if err := checkPool(deviceplugin.Parse, text, poolState(1)); err != nil {
		t.Error(err)
	}
}
