package nodeeni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers"
)

const (
	defaultDriver       = "vfio-pci"
	defaultKernelDriver = "ena"

	// maxAttachments of one object on one node: no instance has as many ENIs.
	maxAttachments = 128
	maxShown       = 64  // characters of a value in a reason
	maxReason      = 500 // of an error
)

var eniID = regexp.MustCompile(`^eni-[0-9a-f]{8,32}$`)

// macOf is the MAC address of an ENI; an error says why it is not known.
type macOf func(eni string) (string, error)

// translation turns objects into what they ask of this node.
type translation struct {
	mac          macOf
	kernelDriver string

	asked   []ask
	refused []source.Refusal
	// judged are the policies of which it is known whether they are about this node,
	// and asks is what those ask that are.
	judged []*policy
	asks   map[string][]source.Interface
}

// ask is what an object asks of one interface.
type ask struct {
	source.Interface
	going bool // the object is being deleted
}

// family is what the names of NodeENIs begin with, as a source of more than one
// kind of object has them.
const family = "nodeeni"

// objectName is what an object asks of one ENI; of all of them, where that is "".
func objectName(name, eni string) string {
	return strings.TrimSuffix(family+"/"+name+"/"+eni, "/")
}

// object adds what one object asks.
func (t *translation) object(o *object) {
	asked, p := t.common(o)
	if p != nil {
		t.refuse(objectName(o.Name, ""), p)
		return
	}
	alone := len(o.attachments) == 1 && subnets(o.spec) <= 1
	seen := map[string]bool{}
	for _, a := range o.attachments {
		at := fmt.Sprintf("status.attachments[%d]", a.index)
		if !eniID.MatchString(a.ENIID) {
			// Whose entry that was, nobody can tell: all of the object stay.
			t.refuse(objectName(o.Name, ""), wrong(at+".eniID", a.ENIID, "want the ID of an ENI, such as eni-0123456789abcdef0"))
			continue
		}
		if seen[a.ENIID] {
			continue // the same ENI asks the same
		}
		seen[a.ENIID] = true
		t.attachment(o, a, asked, alone, at)
	}
}

// subnets are how many an object names: a node gets an ENI in each, one after the
// other, so that its first attachment is alone only for a moment.
func subnets(s v1alpha1.NodeENISpec) int {
	all := slices.Concat([]string{s.SubnetID, s.SubnetName}, s.SubnetIDs, s.SubnetNames)
	slices.Sort(all)
	return len(slices.DeleteFunc(slices.Compact(all), func(name string) bool { return name == "" }))
}

// attachment adds what an object asks of one ENI.
func (t *translation) attachment(o *object, a attachment, asked source.Interface, alone bool, at string) {
	asked.Object = objectName(o.Name, a.ENIID)
	deleted := o.DeletionTimestamp != nil
	if a.Status != v1alpha1.Attached && a.Status != "" && !deleted {
		t.refuse(asked.Object, wrong(at+".status", a.Status, "want "+v1alpha1.Attached+": it is left as it is until then"))
		return
	}
	var p *source.Problem
	if asked.Selector, p = t.selector(o, a, alone, at); p != nil {
		// Of one that is being deleted it is enough that nothing asks for it.
		if !deleted {
			t.refuse(asked.Object, p)
		}
		return
	}
	if deleted {
		asked = source.Interface{Selector: asked.Selector, Object: asked.Object, State: source.Released}
	}
	t.asked = append(t.asked, ask{asked, deleted})
}

// selector is how the interface of an ENI is found: by the address in the object
// where that can be about no other ENI, else by the ENI's MAC address.
func (t *translation) selector(o *object, a attachment, alone bool, at string) (source.Selector, *source.Problem) {
	if alone && o.spec.DPDKPCIAddress != "" {
		address, err := drivers.PCI(o.spec.DPDKPCIAddress)
		if err != nil {
			return source.Selector{}, badAddress(o.spec)
		}
		return source.Selector{PCI: address}, nil
	}
	mac, err := t.mac(a.ENIID)
	if err != nil {
		return source.Selector{}, wrong(at+".eniID", a.ENIID, err.Error())
	}
	return source.Selector{MAC: mac}, nil
}

func badAddress(s v1alpha1.NodeENISpec) *source.Problem {
	return wrong("spec.dpdkPCIAddress", s.DPDKPCIAddress, "want domain:bus:device.function in hex, such as 0000:00:06.0, or none: then the interface is found by the ENI's MAC address")
}

// common is what an object asks of each of its ENIs.
func (t *translation) common(o *object) (source.Interface, *source.Problem) {
	asked := source.Interface{State: source.Configured}
	s := o.spec
	switch {
	case o.DeletionTimestamp != nil && o.err == nil:
		return asked, nil // whatever it asked
	case o.err != nil:
		return asked, unreadable(family, o.err)
	case len(o.attachments) > maxAttachments:
		return asked, wrong("status.attachments", strconv.Itoa(len(o.attachments))+" of this node", fmt.Sprintf("want %d at most: no instance has as many ENIs", maxAttachments))
	case s.MTU != 0 && (s.MTU < entry.MinMTU || s.MTU > entry.MaxMTU):
		return asked, wrong("spec.mtu", strconv.Itoa(s.MTU), fmt.Sprintf("want %d to %d bytes, or 0 for as it is", entry.MinMTU, entry.MaxMTU))
	}
	if _, err := drivers.PCI(s.DPDKPCIAddress); s.DPDKPCIAddress != "" && err != nil {
		return asked, badAddress(s)
	}
	if p := t.driver(&asked, s); p != nil {
		return asked, p
	}
	p := pooled(&asked, s)
	return asked, p
}

// driver fills in the driver, and, where the kernel has the interface then, its
// link.
func (t *translation) driver(asked *source.Interface, s v1alpha1.NodeENISpec) *source.Problem {
	asked.Driver = t.kernelDriver
	if s.EnableDPDK {
		asked.Driver = cmp.Or(s.DPDKDriver, defaultDriver)
		if err := entry.CheckDriver(asked.Driver); err != nil {
			return wrong("spec.dpdkDriver", s.DPDKDriver, err.Error())
		}
	}
	if !drivers.Userspace(asked.Driver) {
		up := true
		asked.Up, asked.MTU = &up, s.MTU
	}
	return nil
}

func (t *translation) refuse(object string, p *source.Problem) {
	r := source.Refusal{Object: object, Reason: p.Error()}
	if !slices.Contains(t.refused, r) {
		t.refused = append(t.refused, r)
	}
}

// settle refuses what several objects ask of one interface. One that is being
// deleted yields to one that is not.
func (t *translation) settle() (all []source.Interface) {
	by := map[source.Selector][]ask{}
	for _, a := range t.asked {
		by[a.Selector] = append(by[a.Selector], a)
	}
	for _, a := range t.asked {
		rivals := wanted(by[a.Selector])
		switch {
		case a.going && len(rivals) > 0:
		case a.going:
			if by[a.Selector][0].Object == a.Object {
				all = append(all, a.Interface)
			}
		case len(rivals) > 1:
			t.refuse(a.Object, &source.Problem{Reason: fmt.Sprintf("%s is asked for by %s: keep one", a.Selector, strings.Join(rivals, " and "))})
		default:
			all = append(all, a.Interface)
		}
	}
	return all
}

// wanted are the objects that ask for an interface, and are not being deleted.
func wanted(all []ask) (names []string) {
	for _, a := range all {
		if !a.going {
			names = append(names, a.Object)
		}
	}
	return names
}

// unreadable is what is wrong with an object that is not what the resource's
// definition says; an API that has another definition lets it pass.
func unreadable(of string, err error) *source.Problem {
	var field *json.UnmarshalTypeError
	if errors.As(err, &field) {
		return wrong(field.Field, field.Value, "that cannot be read: want what kubectl explain "+of+"."+field.Field+" says")
	}
	return wrong("status", err.Error(), "that cannot be read: want what kubectl explain "+of+" --recursive says")
}

func wrong(path, value, reason string) *source.Problem {
	return &source.Problem{Path: path, Value: shown(value), Reason: reason}
}

// shown is a value as a reason can hold it: one line, and not too much of it.
func shown(value string) string {
	quoted := strconv.QuoteToASCII(value)
	if len(quoted) > maxShown {
		return quoted[:maxShown] + "..."
	}
	return quoted
}

// ephemeral is the local end of a connection, in what an error says of it.
var ephemeral = regexp.MustCompile(`[^\s"]+:\d+->`)

// retold is an error in words that are the same when the same happens again: with
// each word that changes there would be another desired state, and another status.
type retold struct {
	error

	words string
}

func retell(err error) error {
	return retold{err, ephemeral.ReplaceAllString(err.Error(), "")}
}

func (r retold) Error() string { return r.words }

func (r retold) Unwrap() error { return r.error }

// oneLine is what an error says, as a reason can hold it.
func oneLine(err error) string {
	line := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " ")
	if len(line) > maxReason {
		return strings.ToValidUTF8(line[:maxReason], "") + "..."
	}
	return line
}
