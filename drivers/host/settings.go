package host

import (
	"fmt"
	"strconv"
	"strings"
)

// Setting names one group of what can be set of a netdev.
type Setting string

// The groups.
const (
	SettingAltNames Setting = "altnames"
	SettingChannels Setting = "channels"
	SettingRings    Setting = "rings"
	SettingFeatures Setting = "features"
	SettingVFs      Setting = "vfs" // what it keeps for its virtual functions
)

// Settings is one group of a netdev's settings; the others are empty.
type Settings struct {
	AltNames    []string  `json:"alt_names,omitempty"`
	Channels    Channels  `json:"channels,omitzero"`
	MaxChannels Channels  `json:"max_channels,omitzero"`
	Rings       Rings     `json:"rings,omitzero"`
	MaxRings    Rings     `json:"max_rings,omitzero"`
	Features    []Feature `json:"features,omitempty"` // by name
	VFs         []VF      `json:"vfs,omitempty"`
}

// Channels are the queues of a netdev, each with an interrupt. Those for other
// uses than packets are left out: no driver lets them be set apart.
type Channels struct {
	RX       int `json:"rx,omitempty"`
	TX       int `json:"tx,omitempty"`
	Combined int `json:"combined,omitempty"`
}

// String is "rx=0 tx=0 combined=4", which ParseChannels reads back.
func (c Channels) String() string {
	return numbersText(channelWords(), c.RX, c.TX, c.Combined)
}

func channelWords() []string { return []string{"rx", "tx", "combined"} }

// ParseChannels reads channels that a netdev can have: at least one way in and
// one way out.
func ParseChannels(s string) (Channels, error) {
	n, err := parseNumbers(channelWords(), s)
	if err != nil {
		return Channels{}, fmt.Errorf("channels: %w", err)
	}
	c := Channels{RX: n[0], TX: n[1], Combined: n[2]}
	if c.Combined == 0 && (c.RX == 0 || c.TX == 0) {
		return Channels{}, fmt.Errorf("channels: %q has none to receive or none to send by", s)
	}
	return c, nil
}

// Rings are how many descriptors the rings of a netdev have.
type Rings struct {
	RX    int `json:"rx,omitempty"`
	Mini  int `json:"mini,omitempty"`
	Jumbo int `json:"jumbo,omitempty"`
	TX    int `json:"tx,omitempty"`
}

// String is "rx=256 mini=0 jumbo=0 tx=256", which ParseRings reads back.
func (r Rings) String() string {
	return numbersText(ringWords(), r.RX, r.Mini, r.Jumbo, r.TX)
}

func ringWords() []string { return []string{"rx", "mini", "jumbo", "tx"} }

// ParseRings reads what String wrote.
func ParseRings(s string) (Rings, error) {
	n, err := parseNumbers(ringWords(), s)
	if err != nil {
		return Rings{}, fmt.Errorf("rings: %w", err)
	}
	return Rings{RX: n[0], Mini: n[1], Jumbo: n[2], TX: n[3]}, nil
}

// Feature is an offload. What is wanted is what was last asked of it; it is not
// active while another one that it needs is off, or its driver refuses.
type Feature struct {
	Name   string `json:"name"` // of the kernel: "tx-tcp-segmentation"
	Wanted bool   `json:"wanted,omitempty"`
	Active bool   `json:"active,omitempty"`
	Fixed  bool   `json:"fixed,omitempty"` // nobody can change it
}

// maxSetting is more than any device has; ethtool's fields are 32 bits wide.
const maxSetting = 1 << 20

func numbersText(names []string, numbers ...int) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = name + "=" + strconv.Itoa(numbers[i])
	}
	return strings.Join(words, " ")
}

// parseNumbers reads "a=1 b=2" with exactly these names in this order.
func parseNumbers(names []string, s string) ([]int, error) {
	numbers := make([]int, len(names))
	words := strings.Split(s, " ")
	for i, name := range names {
		if i >= len(words) {
			break
		}
		text, _ := strings.CutPrefix(words[i], name+"=")
		numbers[i], _ = strconv.Atoi(text)
		if numbers[i] < 0 || numbers[i] > maxSetting {
			return nil, fmt.Errorf("%q: want 0 to %d", words[i], maxSetting)
		}
	}
	if numbersText(names, numbers...) != s {
		return nil, fmt.Errorf("%q: want %s=N", s, strings.Join(names, "=N "))
	}
	return numbers, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
