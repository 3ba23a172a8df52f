package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// patience is for what other processes do, on a machine that is busy.
const patience = 30 * time.Second

const (
	pluginFile = "/etc/pcidp/config.json"
	primary    = "0000:00:05.0"
)

// slot is the PCI address of the i-th ENI of a node, beside the primary one.
func slot(i int) string { return fmt.Sprintf("0000:00:%02x.0", 6+i) }

// eniOf and macOf are those of the ENI that the cloud has made for a node's slot.
func eniOf(node string, i int) string { return fmt.Sprintf("eni-%016x%d", number(node), i) }

func macOf(node string, i int) string {
	n := number(node)
	return fmt.Sprintf("0e:%02x:%02x:%02x:%02x:%02x", byte(n>>24), byte(n>>16), byte(n>>8), byte(n), i)
}

func number(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}

// function is an ENI in its slot.
func function(node string, i int) sim.Device {
	return sim.Device{
		Address: slot(i), Vendor: "0x1d0f", Device: "0xec20", SubsystemVendor: "0x1d0f", SubsystemDevice: "0xec20",
		Class: "0x020000", IOMMUGroup: fmt.Sprint(10 + i),
		Net: &sim.Netdev{Name: fmt.Sprintf("ens%d", 6+i), MAC: macOf(node, i), PermMAC: macOf(node, i), MTU: 1500, MinMTU: 128, MaxMTU: 9216},
	}
}

// instanceOf is a simulated instance with so many ENIs beside its primary one.
func instanceOf(node string, enis int) sim.Config {
	c := sim.DefaultNode()
	c.Seed = node
	c.Devices = slices.DeleteFunc(c.Devices, func(d sim.Device) bool { return d.Address != primary && d.Address != "0000:00:00.0" })
	for i := range enis {
		c.Devices = append(c.Devices, function(node, i))
	}
	return c
}

// cloud answers as the metadata service of an instance whose ENIs come and go.
type cloud struct {
	*httptest.Server

	mu   sync.Mutex
	enis map[string]string // by MAC address
}

func newCloud(t testing.TB, node string, enis int) *cloud {
	m := &cloud{enis: map[string]string{}}
	for i := range enis {
		m.enis[macOf(node, i)] = eniOf(node, i)
	}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		instance(m.enis).ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

// set has an ENI at a MAC address; "" has none.
func (m *cloud) set(mac, eni string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.enis, mac)
	if eni != "" {
		m.enis[mac] = eni
	}
}

// sight is what a function is on the host itself: "ena up 1500", "vfio-pci", "gone",
// and the pools of the device plugin that name it.
func sight(k host.Reader, address string) string {
	ctx := context.Background()
	driver, err := host.DriverOf(ctx, k, address)
	switch {
	case errors.Is(err, drivers.ErrGone):
		return strings.Join(append([]string{"gone"}, poolsOf(k, address)...), " ")
	case err != nil:
		return err.Error()
	}
	words := []string{driver}
	links, err := k.Links(ctx)
	if err != nil {
		return err.Error()
	}
	for _, l := range links {
		if l.Bus != address {
			continue
		}
		words = append(words, map[bool]string{true: "up", false: "down"}[l.Up], fmt.Sprint(l.MTU))
	}
	return strings.TrimSpace(strings.Join(append(words, poolsOf(k, address)...), " "))
}

// poolsOf are the pools in the device plugin's file that name a function.
func poolsOf(k host.Reader, address string) (names []string) {
	text, err := k.File(context.Background(), pluginFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file struct {
		ResourceList []struct {
			ResourcePrefix, ResourceName string
			Selectors                    []struct{ PCIAddresses []string }
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &file)
	}
	if err != nil {
		return []string{err.Error()}
	}
	for _, r := range file.ResourceList {
		for _, s := range r.Selectors {
			if slices.Contains(s.PCIAddresses, address) {
				names = append(names, r.ResourcePrefix+"/"+r.ResourceName)
			}
		}
	}
	return names
}

// told is what the attachment of an ENI says in the API: "vfio-pci 0000:00:07.0
// intel.com/a bound Right 3". The number is the generation that was observed, with
// the object's own where that is another.
func told(o *v1alpha1.NodeENI, eni string) string {
	i := slices.IndexFunc(o.Status.Attachments, func(a v1alpha1.ENIAttachment) bool { return a.ENIID == eni })
	if i < 0 {
		return "no attachment"
	}
	return toldBy(o, o.Status.Attachments[i])
}

func toldBy(o *v1alpha1.NodeENI, a v1alpha1.ENIAttachment) string {
	words := []string{a.Driver, a.PCIAddress, a.DPDKResourceName, a.State}
	if a.DPDKBound != (a.DPDKDriver != "") || a.DPDKBound && (a.DPDKDriver != a.Driver || a.DPDKPCIAddress != a.PCIAddress) {
		words = append(words, fmt.Sprintf("CONTRADICTS bound=%t driver=%s address=%s", a.DPDKBound, a.DPDKDriver, a.DPDKPCIAddress))
	}
	for _, c := range a.Conditions {
		words = append(words, c.Reason)
		if (c.Status == "True") != (c.Reason == "Right") || c.Type != v1alpha1.ConditionReady {
			words = append(words, fmt.Sprintf("CONTRADICTS %s=%s", c.Type, c.Status))
		}
		generation := fmt.Sprint(c.ObservedGeneration)
		if c.ObservedGeneration != o.Generation {
			generation += fmt.Sprintf(" of %d", o.Generation)
		}
		words = append(words, generation)
	}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// says waits until the attachment of an ENI says something.
func (c *cluster) says(t testing.TB, name, eni, want string) v1alpha1.ENIAttachment {
	t.Helper()
	var o *v1alpha1.NodeENI
	await(t, name+" "+eni+" says", want, func() string {
		o = &v1alpha1.NodeENI{}
		if err := c.client.Get(context.Background(), client.ObjectKey{Name: name}, o); err != nil {
			return err.Error()
		}
		return told(o, eni)
	})
	for _, a := range o.Status.Attachments {
		if a.ENIID == eni {
			return a
		}
	}
	return v1alpha1.ENIAttachment{}
}

// await waits until something is as it shall be.
func await(t testing.TB, what, want string, is func() string) {
	t.Helper()
	deadline, last := time.Now().Add(patience), ""
	for {
		if last = is(); last == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s:\n  %s\nwant\n  %s", what, last, want)
		}
		time.Sleep(20 * time.Millisecond) // another process, which tells nobody
	}
}
